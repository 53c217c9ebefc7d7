"""Options of reverse distillation in `cmdiad-train`. Importing this module loads no torch."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import collect_options, option_group
from cmdiad_train.detectors.shared_options import GEOMETRY, IMAGES, MODE, TRAINING

REVERSE_DISTILLATION = option_group(
    "Reverse distillation",
    click.option(
        "--variant",
        type=click.Choice(["trd", "rd", "mtfi-trd", "mtfi-rd"]),
        help="rd: a separate student for each modality; trd: image and cloud, each student also sees the other "
        "modality; mtfi-trd and mtfi-rd: inspection measures one modality, but training needs both, to hallucinate the "
        "missing features (mtfi-trd) or to learn from a detector of both modalities (mtfi-rd, as fast as rd).  "
        "[default: rd, faithful with --modality both: trd]",
    ),
    click.option(
        "--distance",
        type=click.Choice(["flat", "pixel"]),
        help="Cosine distance of the training: of all values of a level at once (as published), or the mean over the "
        "pixels.  [default: flat]",
    ),
    click.option(
        "--folds",
        type=click.IntRange(min=2),
        help="Number of groups of training samples that are left out in turn, so that every training sample has a "
        "score for the threshold. Each group costs one more training, and on real parts the threshold became too high "
        "(docs/families.md).  [default: none; held-out samples only]",
    ),
)

OPTIONS: tuple[click.Option, ...] = (*MODE, *collect_options(REVERSE_DISTILLATION), *GEOMETRY, *TRAINING, *IMAGES)
