"""`cmdiad-line`: the station next to a production line. A subcommand is imported when it is used."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import LazyGroup, run_command

SUBCOMMANDS = {
    "run": ("cmdiad_line.cli.run:run", "Run the station that a station file describes."),
    "demo": ("cmdiad_line.cli.demo:demo", "Run a station with a simulated camera and open its page."),
    "plc-simulator": ("cmdiad_line.cli.plc_simulator:plc_simulator", "Play the PLC against a station, and check it."),
    "check": ("cmdiad_line.cli.check:check", "Explain every mistake in a station file."),
    "account": ("cmdiad_line.cli.account:account", "Manage accounts of people and tokens of programs."),
    "recipe": ("cmdiad_line.cli.recipe:recipe", "Add, list, activate and roll back recipes."),
    "candidate": (
        "cmdiad_line.cli.candidate:candidate",
        "Learn from judged parts.",
    ),
    "export": ("cmdiad_line.cli.export:export", "Write results of a span of time to a file, or with their pictures."),
    "verify": ("cmdiad_line.cli.verify:verify", "Recompute the hash chain of the records."),
    "renew": ("cmdiad_line.cli.renew:renew", "Set the records aside and start new ones."),
}
"""Place and purpose of each subcommand."""

HELP = """Inspect parts next to a production line, always on.

A station answers every trigger with one verdict in time: OK only if the part was really inspected, otherwise NG with a
reason. One TOML file describes a station. Start with `cmdiad-line demo`; docs/station.md explains the rest.
"""
EXAMPLES = (
    "cmdiad-line demo",
    "cmdiad-line check station.toml",
    "cmdiad-line run station.toml",
)


@click.group("cmdiad-line", cls=LazyGroup, places=SUBCOMMANDS, help=HELP, examples=EXAMPLES)
def cli() -> None:
    """See HELP."""


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-line")
