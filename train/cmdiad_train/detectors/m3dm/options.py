"""Options of M3DM in `cmdiad-train`. Importing this module loads no torch."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import collect_options, option_group
from cmdiad_train.detectors.bank.options import OPTIONS as BANK_OPTIONS
from cmdiad_train.detectors.shared_options import IMAGES, MODE, STAGES, TRAINING

FUSION = option_group(
    "Feature fusion",
    click.option(
        "--feature-fusion",
        type=click.Choice(["uff", "none"]),
        help="Third memory bank of features that a network fuses of image and cloud, or two banks only.  "
        "[default: uff]",
    ),
    click.option(
        "--pairing",
        type=click.Choice(["aligned", "published"]),
        help="Pairs that train the fusion network: image and cloud of the same place, or the wrong places of the "
        "published program (mode faithful only).  [default: aligned]",
    ),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0, min_open=True),
        help="Temperature of the contrastive loss of the fusion network.  [default: 1]",
    ),
)

_OF_BANKS = ("coreset", "components", "image_score", "series", "fusion")
_OF_CLOUDS = ("xyz_", "surface_")

OPTIONS: tuple[click.Option, ...] = (
    *MODE,
    *collect_options(FUSION),
    *TRAINING,
    *IMAGES,
    *STAGES,
    *(option for option in BANK_OPTIONS if str(option.name) in _OF_BANKS or str(option.name).startswith(_OF_CLOUDS)),
)
