"""Options of 3DSR in `cmdiad-train`. Importing this module loads no torch."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import collect_options, option_group
from cmdiad_train.detectors.shared_options import GEOMETRY, MODE, TRAINING

DUAL_SUBSPACE = option_group(
    "3DSR",
    click.option(
        "--code-width",
        type=click.IntRange(min=16),
        help="Channels of a code, a multiple of 16. All networks are proportional; time and size grow with the "
        "square.  [default: 64, faithful: 256]",
    ),
    click.option(
        "--codes", type=click.IntRange(min=32), help="Entries of each code book.  [default: 512, faithful: 2048]"
    ),
    click.option(
        "--autoencoder-steps",
        type=click.IntRange(min=1),
        help="Training steps of the autoencoder on simulated pictures. Take a trained one over with --network-from.  "
        "[default: 2000, faithful: 100000]",
    ),
)

OPTIONS: tuple[click.Option, ...] = (*MODE, *collect_options(DUAL_SUBSPACE), *GEOMETRY, *TRAINING)
