"""`cmdiad-line check`: explain every mistake in a station file."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_line.cli.exit_codes import EXIT_CODES
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand

HELP = """Check FILE and explain every mistake. Nothing is started or changed."""
EXAMPLES = ("cmdiad-line check station.toml", "cmdiad-line check /etc/cmdiad/station.toml")


@click.command("check", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes={10: EXIT_CODES[10]})
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """See HELP."""
    from cmdiad_line.station_file.mistakes import StationFileError
    from cmdiad_line.station_file.read import read_station

    try:
        station = read_station(file)
    except StationFileError as error:
        for mistake in error.mistakes:
            click.echo(printable(str(mistake)))
        return error.exit_code
    names = [source.name for source in station.sources] + [name for name, _ in station.outside]
    click.echo(f"{printable(station.name)}: no mistakes. Recipe {station.recipe.id}, {', '.join(names)}.")
    for source in station.sources:
        if not source.noisy and source.kind != "simulated":
            click.echo(
                f"note: {source.name}: with noisy = false, a picture that is delivered again is inspected for the next "
                "part, too. Use this for generated pictures only."
            )
    return 0
