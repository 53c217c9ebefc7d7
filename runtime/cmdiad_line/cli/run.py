"""`cmdiad-line run`: run a station until it is asked to end."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from cmdiad_line.cli.exit_codes import EXIT_CODES
from cmdiad_runtime.support.command_line import GroupedCommand

HELP = """Run the station that FILE describes.

The station ends in order on Ctrl-C or SIGTERM: parts in work become NG. Under systemd, use `Type=notify`; the unit
file is in docker/.

Prints the addresses of the page and of the interfaces on stderr, and a line each time the station becomes ready or is
no longer ready, with the reason.
"""
EXAMPLES = ("cmdiad-line run station.toml", "cmdiad-line run /etc/cmdiad/station.toml")


@click.command("run", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
def run(file: Path) -> int:
    """See HELP."""
    from cmdiad_line.cli.state_lines import StateLines
    from cmdiad_line.station_file.read import read_station
    from cmdiad_line.supervisor.start import run_station

    station = read_station(file)
    with closing(StateLines(station)) as lines:
        return run_station(station, lines.show)
