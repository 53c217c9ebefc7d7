"""Options of Shape-Guided detectors in `cmdiad-train`. Importing this module loads no torch."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import collect_options, option_group
from cmdiad_train.detectors.shared_options import IMAGES, MODE, TRAINING

_SHAPE_GUIDED = option_group(
    "Patches of clouds",
    click.option(
        "--patches",
        type=click.IntRange(min=1),
        help="Largest number of patches of a cloud. Time and memory of an inspection grow with the number.  "
        "[default: 128, faithful: 512]",
    ),
    click.option("--patch-points", type=click.IntRange(min=8), help="Points per patch.  [default: 200, faithful: 500]"),
    click.option(
        "--coverage",
        type=click.IntRange(min=1),
        help="Mean number of patches that show a point, as long as --patches allows.  [default: 5, faithful: 10]",
    ),
    click.option(
        "--decoder-width",
        type=click.IntRange(min=1),
        help="Width of the network of distances. Time and size grow with the square.  [default: 256, faithful: 512]",
    ),
)

OPTIONS: tuple[click.Option, ...] = (*MODE, *collect_options(_SHAPE_GUIDED), *TRAINING, *IMAGES)
