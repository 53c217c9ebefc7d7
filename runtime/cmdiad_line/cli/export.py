"""`cmdiad-line export`: results of a span of time as a table, or with pictures."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_line.cli.state_argument import STATE, state_of
from cmdiad_line.cli.times import utc_time
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group

HELP = """Write the results of STATE to a file or folder. The station may be running.

Without a time zone, times are local; a date alone means the first moment of that day. The table contains the verdicts
as they were published, with the last judgement and override of each part.
"""
EXAMPLES = (
    "cmdiad-line export station.toml --out week.csv --since 2026-11-23 --until 2026-11-30",
    "cmdiad-line export station.toml --out shift.parquet --since 2026-11-26T06:00",
    "# JSON lines and the pictures of all NG parts",
    "cmdiad-line export station.toml --out rejected --format pictures --verdict NG",
)
EXIT_CODES = {5: "pyarrow is missing", 6: "records not readable, or output not writable"}
FORMATS = ("csv", "parquet", "pictures")


@click.command("export", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@STATE
@option_group(
    "Output",
    click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path),
        help="File to write or replace; new folder for pictures.",
    ),
    click.option(
        "--format",
        "kind",
        type=click.Choice(FORMATS),
        help="Format of the output.  [default: by the suffix of --out, .csv or .parquet]",
    ),
)
@option_group(
    "Selection",
    click.option("--since", callback=utc_time, metavar="TIME", help="Earliest time of the trigger."),
    click.option("--until", callback=utc_time, metavar="TIME", help="Only triggers before this time."),
    click.option("--verdict", type=click.Choice(("OK", "NG")), help="Only parts with this published verdict."),
    click.option("--recipe", metavar="ID", help="Only parts of this recipe."),
)
def export(  # noqa: PLR0913 - one parameter for each option
    place: Path,
    out: Path,
    kind: str | None,
    since: str | None,
    until: str | None,
    verdict: str | None,
    recipe: str | None,
) -> int:
    """See HELP."""
    from cmdiad_line.records.export import export_csv, export_parquet, export_pictures
    from cmdiad_line.records.reading import RecordReader
    from cmdiad_line.records.stored import Selection

    kind = kind or out.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise click.UsageError(f"--out {out} has no known suffix: add --format {'|'.join(FORMATS)}")
    selection = Selection(since=since, until=until, verdict=verdict, recipe_id=recipe)
    with RecordReader(state_of(place)) as records:
        if kind == "pictures":
            count, pictures = export_pictures(records, selection, out)
            click.echo(f"{printable(out)}: {count} results, {pictures} of them with pictures")
        else:
            count = (export_csv if kind == "csv" else export_parquet)(records, selection, out)
            click.echo(f"{printable(out)}: {count} results")
    return 0
