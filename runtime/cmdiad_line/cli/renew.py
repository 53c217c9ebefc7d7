"""`cmdiad-line renew`: set the records aside and start new ones."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_line.cli.state_argument import STATE, present_user, state_of, stopped_station
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group

HELP = """Set the records of the stopped station STATE aside and start new ones.

Do this after damage, or when the database has become large. The earlier file stays in the state folder under a name
with the date. The first row of the new records names that file and the last hash in there, so the chain continues.
Acquisition ids continue, too.
"""
EXAMPLES = (
    "cmdiad-line renew station.toml --note 'disk replaced'",
    "cmdiad-line renew /var/lib/cmdiad",
)
EXIT_CODES = {6: "the station is running, or the state folder cannot be written"}


@click.command("renew", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@STATE
@option_group("Audit log", click.option("--note", default="", help="Reason, for the audit log."))
def renew(place: Path, note: str) -> int:
    """See HELP."""
    from cmdiad_line.records.renewing import renew_records

    state = state_of(place)
    with stopped_station(state):
        renewed = renew_records(state, present_user(), note)
    click.echo(f"The earlier records are now {printable(renewed.earlier)}.")
    if renewed.problem:
        click.echo(f"They are damaged: {renewed.problem}")
    click.echo(f"New records start after row {renewed.head.sequence} of the earlier ones.")
    return 0
