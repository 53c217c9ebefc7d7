"""Options of the memory bank family in `cmdiad-train`. Importing this module loads no torch."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import collect_options, option_group
from cmdiad_train.detectors.shared_options import IMAGES, MODE, STAGES, TRAINING

ROW_NAMES = ("xyz", "xyz-f2f", "xyz-f2i", "xyz-i2f", "rgb", "rgb-f2f", "rgb-f2i", "rgb-i2f")
"""Rows of the paper's tables: measured modality, and hallucination."""


def _set_row(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Make the values of a row of the paper the defaults of the other options."""
    if value is not None:
        from cmdiad_train.detectors.bank.paper import row_of

        context.default_map = {**(context.default_map or {}), **row_of(value).options()}
    return value


HALLUCINATION = option_group(
    "Hallucination",
    click.option(
        "--hallucination",
        type=click.Choice(["none", "f2f", "f2i", "i2f"]),
        default="none",
        help="Replacement of the missing modality: features to features, features to input, or input to features.",
    ),
    click.option(
        "--partner",
        metavar="IMAGE",
        help="With f2f: hallucinate the features of another image sensor instead of a cloud, for example infrared with "
        "--modality rgb. Only training reads such images (docs/data.md).",
    ),
    click.option(
        "--registered",
        is_flag=True,
        default=None,
        help="With --partner: a place of the part lies at the same place of both images. The view part then cuts both "
        "out with the pose of the part in the inspected image.",
    ),
    click.option("--loss", type=click.Choice(["l2", "cosine", "smooth_l1"]), help="Loss per row.  [default: l2]"),
    click.option(
        "--f2f-output",
        type=click.Choice(["linear", "gelu"]),
        help="Last activation of the f2f network.  [default: linear, faithful: gelu]",
    ),
    click.option(
        "--hallucination-context",
        type=int,
        metavar="[1|3|5]",
        help="Side of the square of cells that the f2f network sees around each cell (default mode only).  "
        "[default: 1]",
    ),
    click.option(
        "--hallucination-coordinates",
        type=click.Choice(["none", "cell"]),
        help="Place of the cell as a further input of the f2f network: none, or x and y (default mode only).  "
        "[default: none]",
    ),
    click.option(
        "--hallucination-targets",
        type=click.Choice(["joined", "stages"]),
        help="Features that the f2f network predicts: principal components of all stages of the other extractor "
        "together, or of each stage alone, with the same weight (default mode only).  [default: joined]",
    ),
    click.option(
        "--alignment",
        type=float,
        metavar="WEIGHT",
        help="Weight of a contrastive loss that aligns hallucinated features with their targets while the f2f network "
        "is trained, for example 0.1 (default mode only).  [default: 0]",
    ),
    click.option(
        "--main-bank",
        type=click.Choice(["plain", "enhanced"]),
        help="Banks with f2f: a bank of main and a bank of hallucinated features, or one bank of concatenated features "
        "(default mode only).  [default: plain]",
    ),
    click.option(
        "--residual-map",
        type=click.Choice(["none", "cycle"]),
        help="Further map with f2f: how far the main features are from those that a second network predicts back from "
        "the hallucinated ones (default mode only).  [default: none]",
    ),
    click.option(
        "--uncertainty",
        type=click.Choice(["none", "bank"]),
        help="With f2f: reduce distances to rows of the hallucinated bank that the network is uncertain about, at most "
        "by half (default mode only).  [default: none]",
    ),
    click.option(
        "--distil-validation",
        type=float,
        help="Share of the training samples that choose the best epoch.  [default: 0.1, faithful: 0]",
    ),
    click.option(
        "--distil-on",
        help="Categories whose good samples also train the network, as a,b or all (as published).  "
        "[default: only the category of the detector]",
    ),
)

CLOUDS = option_group(
    "Cloud extractor",
    click.option(
        "--xyz",
        "xyz_kind",
        type=click.Choice(["point_mae", "point_bert", "normals", "depth"]),
        help="Clouds as groups of points, or as an image of surface normals or depth.  "
        "[default: normals, faithful: point_mae, or the kind of --xyz-weights]",
    ),
    click.option("--surface-backbone", help="timm model for normals and depth.  [default: --rgb-backbone]"),
    click.option("--surface-stages", help="CNN stages for normals and depth.  [default: --rgb-stages]"),
    click.option("--surface-layers", help="Blocks of a ViT for normals and depth.  [default: --rgb-layers]"),
    click.option(
        "--surface-grid",
        type=click.IntRange(min=2),
        help="Side of the grid of features of normals and depth.  [default: --rgb-grid]",
    ),
    click.option(
        "--surface-weights",
        help="Weights for normals and depth.  [default: shipped-normals, or --rgb-weights if given]",
    ),
    click.option("--xyz-groups", type=click.IntRange(min=3), help="Point groups per cloud.  [default: 1024]"),
    click.option(
        "--xyz-group-size", type=click.IntRange(min=1), help="Points per group.  [default: 32, faithful: 128]"
    ),
    click.option(
        "--xyz-width", type=click.IntRange(min=8), help="Width of the point transformer.  [default: 96, faithful: 384]"
    ),
    click.option(
        "--xyz-depth",
        type=click.IntRange(min=1),
        help="Blocks of the point transformer; features come from the last block and the block at a third.  "
        "[default: 2, faithful: 12]",
    ),
    click.option(
        "--xyz-heads",
        type=click.IntRange(min=1),
        help="Attention heads of the point transformer.  [default: 3, faithful: 6]",
    ),
    click.option(
        "--xyz-grid",
        type=click.IntRange(min=2),
        help="Side of the grid of point features.  [default: 28, faithful: 56]",
    ),
    click.option(
        "--xyz-normalisation",
        type=click.Choice(["frozen", "batch", "eval"]),
        help="BatchNorm statistics of the point encoder: of the training clouds, the current cloud, or the weights.  "
        "[default: frozen, faithful: batch]",
    ),
    click.option(
        "--xyz-weights",
        help="seeded (random), or a FILE with weights of Point-MAE or Point-BERT.  [default: seeded, faithful: the "
        "stored weights of Point-MAE if there are any]",
    ),
)

BANKS = option_group(
    "Memory bank",
    click.option(
        "--paper",
        type=click.Choice(ROW_NAMES),
        is_eager=True,
        callback=_set_row,
        help="Row of the paper's tables: sets mode, modality, hallucination, mask and view as in the paper and accepts "
        "no other value. Weights of Point-MAE must be stored (cmdiad-extractor import) or named.",
    ),
    click.option(
        "--coreset",
        type=float,
        help="Fraction of rows kept in a memory bank.  [default: all up to 25 000 rows, faithful and family "
        "patchcore: 0.1]",
    ),
    click.option(
        "--components",
        type=click.IntRange(min=0),
        help="Principal components of the normal features that are used; 0 takes all channels.  "
        "[default: 256, faithful: 0]",
    ),
    click.option(
        "--image-score",
        type=click.Choice(["reweighted", "max"]),
        help="Largest distance, weighted by how usual the bank row is (as published) or unweighted.  "
        "[default: max, faithful: reweighted]",
    ),
    click.option(
        "--distances",
        type=click.Choice(["auto", "plain", "relative"]),
        help="Distances in the map: plain, or relative to the usual distance of good parts at the same place of the "
        "view. auto: relative in a view that follows the part, else plain. auto and relative in the default mode "
        "only.  [default: auto, faithful: plain]",
    ),
    click.option(
        "--series",
        type=click.Choice(["leave-out", "keep"]),
        help="Good samples that were recorded in series, such as several images of a part that was not moved: "
        "leave-out scores a sample against banks without the whole series, keep leaves out the sample alone. Samples "
        "that are ordered by kinds of parts need keep.  [default: leave-out, faithful: keep]",
    ),
    click.option(
        "--fusion",
        type=click.Choice(["standardised", "ocsvm"]),
        help="Weights of the linear fusion.  [default: standardised, faithful: ocsvm]",
    ),
)

OPTIONS: tuple[click.Option, ...] = (
    *MODE,
    *collect_options(HALLUCINATION),
    *TRAINING,
    *IMAGES,
    *STAGES,
    *collect_options(CLOUDS, BANKS),
)
PATCHCORE_OPTIONS: tuple[click.Option, ...] = (
    *MODE,
    *IMAGES,
    *STAGES,
    *(option for option in OPTIONS if option.name in ("coreset", "series")),
)
"""Options of the family `patchcore`, whose recipes are recipes of banks."""
