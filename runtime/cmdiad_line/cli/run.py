"""`cmdiad-line run`: run a station until it is asked to end."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_line.cli.exit_codes import EXIT_CODES
from cmdiad_runtime.support.command_line import GroupedCommand

HELP = """Run the station that FILE describes.

The station ends in order on Ctrl-C or SIGTERM: parts in work become NG. Under systemd, use `Type=notify`; the unit
file is in docker/.
"""
EXAMPLES = ("cmdiad-line run station.toml", "cmdiad-line run /etc/cmdiad/station.toml")


@click.command("run", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
def run(file: Path) -> int:
    """See HELP."""
    from cmdiad_line.station_file.read import read_station
    from cmdiad_line.supervisor.start import run_station

    return run_station(read_station(file))
