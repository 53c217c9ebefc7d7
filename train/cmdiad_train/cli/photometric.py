"""The command `cmdiad-data photometric`: normals and albedo from images under several lights."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from cmdiad_runtime.cli.threshold_text import in_shell
from cmdiad_runtime.support.command_line import GroupedCommand
from cmdiad_runtime.support.progress import TerminalReporter

SOME_FAILED = 3


@click.command(
    "photometric",
    cls=GroupedCommand,
    examples=(
        "cmdiad-data photometric lit_parts parts",
        "cmdiad-data photometric lit/gear parts/gear && cmdiad-train parts --modality normals",
    ),
    exit_codes={
        SOME_FAILED: "some samples cannot be used",
        6: "output cannot be written",
        7: "lights or folders cannot be used",
    },
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
def photometric(directory: Path, out: Path) -> int:
    """Compute normals and albedo of parts that one camera recorded under at least three lights.

    DIR contains lights.json with the direction of each light, and the images as train/good/lights/000/LIGHT.png,
    test/DEFECT/lights/000/LIGHT.png and so on. OUT becomes a data set with the modalities normals and albedo.
    DIR is never changed (docs/data.md).
    """
    from cmdiad_train.datasets.prepare.photometric_data import NORMALS, compute_surfaces

    with closing(TerminalReporter()) as reporter:
        result = compute_surfaces(directory, out, reporter)
    for error in result.failed:
        click.echo(f"error: {error}", err=True)
    click.echo(f"{result.written} samples computed, {len(result.failed)} left out: {out}", err=True)
    click.echo(f"next: cmdiad-train {in_shell(out)} --modality {NORMALS}")
    return SOME_FAILED if result.failed else 0
