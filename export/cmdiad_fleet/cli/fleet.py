"""`cmdiad-fleet`: bundles on many machines. A subcommand is imported when it is used."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import LazyGroup, run_command

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "train": ("cmdiad_fleet.cli.train:train", "Train a detector for each category and recipe of a fleet file."),
}
"""Place and purpose of each subcommand."""

HELP = """Score archives, train many detectors, and bring bundles to many machines."""
EXAMPLES: tuple[str, ...] = ("cmdiad-fleet train fleet.toml",)


@click.group("cmdiad-fleet", cls=LazyGroup, places=SUBCOMMANDS, help=HELP, examples=EXAMPLES)
def cli() -> None:
    """See HELP."""


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-fleet")
