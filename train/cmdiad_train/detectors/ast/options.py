"""Options of AST in `cmdiad-train`. Importing this module loads no torch."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import collect_options, option_group
from cmdiad_train.detectors.shared_options import GEOMETRY, IMAGES, MODE, TRAINING

ASYMMETRIC_STUDENT_TEACHER = option_group(
    "Asymmetric student-teacher",
    click.option(
        "--cell",
        type=click.Choice(["8", "16", "32"]),
        help="Side of a cell in pixels of the view. The map has one value for each cell, and the time grows with the "
        "number of cells.  [default: 16, faithful: 32]",
    ),
    click.option(
        "--student-width",
        type=click.IntRange(min=1),
        help="Channels of the student. Time and size grow with the square.  [default: 256, faithful: 1024]",
    ),
    click.option(
        "--reduction",
        type=click.Choice(["mean", "max"]),
        help="Image score, which decides with --verdict image: the mean of all cells, or the largest value of the "
        "map.  [default: mean]",
    ),
)

OPTIONS: tuple[click.Option, ...] = (
    *MODE,
    *collect_options(ASYMMETRIC_STUDENT_TEACHER),
    *GEOMETRY,
    *TRAINING,
    *IMAGES,
)
