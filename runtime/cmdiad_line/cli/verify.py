"""`cmdiad-line verify`: recompute the hash chain of the records."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_line.cli.state_argument import STATE, state_of
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand

HELP = """Recompute the hash of every row of the records of STATE, and name the first row that does not fit.

STATE is a state folder, a station file, or a database that was set aside. The station may be running. The command
prints the number and the hash of the last row: note them elsewhere to recognise rows that are cut off later.
"""
EXAMPLES = (
    "cmdiad-line verify station.toml",
    "cmdiad-line verify /var/lib/cmdiad/records-2026-11-26T1200.sqlite",
)
EXIT_CODES = {3: "a row does not fit: the records were changed or damaged", 6: "records not readable"}
DOES_NOT_FIT = 3


@click.command("verify", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@STATE
def verify(place: Path) -> int:
    """See HELP."""
    from cmdiad_line.records.verifying import verify_file

    path = place if place.suffix == ".sqlite" and place.is_file() else state_of(place) / "records.sqlite"
    result = verify_file(path)
    counts = ", ".join(f"{count} {table}" for table, count in result.rows.items())
    click.echo(f"{printable(path)}: {counts}")
    click.echo(f"last row that fits: {result.head.sequence}, hash {result.head.hash}")
    if result.problem:
        click.echo(f"NOT VERIFIED. {result.problem}")
        return DOES_NOT_FIT
    click.echo("verified: every row fits the chain.")
    return 0
