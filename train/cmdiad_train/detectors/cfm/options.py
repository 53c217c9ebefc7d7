"""Options of crossmodal feature mapping in `cmdiad-train`. Importing this module loads no torch."""

from __future__ import annotations

import click

from cmdiad_train.detectors.shared_options import IMAGES, STAGES, TRAINING

OPTIONS: tuple[click.Option, ...] = (*TRAINING, *IMAGES, *STAGES)
