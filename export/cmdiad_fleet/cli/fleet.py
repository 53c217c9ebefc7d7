"""`cmdiad-fleet`: bundles on many machines. A subcommand is imported when it is used."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import LazyGroup, run_command

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "score": ("cmdiad_fleet.cli.score:score", "Score the samples of a manifest, on this machine or on a Ray cluster."),
}
"""Place and purpose of each subcommand."""

HELP = """Score archives, train many detectors, and bring bundles to many machines."""
EXAMPLES: tuple[str, ...] = (
    "# score an archive with all cores of this machine; the same command continues an interrupted run",
    "cmdiad-fleet score cable.cmdiad archive.parquet --out scored/",
    "# the same on a Ray cluster",
    "cmdiad-fleet score cable.cmdiad archive.parquet --out scored/ --engine ray --address 10.0.0.5:6379",
)


@click.group("cmdiad-fleet", cls=LazyGroup, places=SUBCOMMANDS, help=HELP, examples=EXAMPLES)
def cli() -> None:
    """See HELP."""


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-fleet")
