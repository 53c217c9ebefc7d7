"""Write the tables of a fleet as JSON and CSV for programs and as a page for people; return text for the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from cmdiad_fleet.training.fleet_file.fleet import Fleet
from cmdiad_fleet.training.rows import Row
from cmdiad_runtime.cli.each import as_figure, table
from cmdiad_runtime.inspection.result_line import csv_cell
from cmdiad_runtime.support.files import atomic_write, write_json

if TYPE_CHECKING:
    from cmdiad_fleet.training.search import Searched

FORMAT = "cmdiad-fleet"
FORMAT_VERSION = 1


def write_tables(fleet: Fleet, rows: Sequence[Row], searched: Mapping[str, Searched]) -> None:
    """Write `fleet.json`, `fleet.csv` and `fleet.html` into the folder of the fleet.

    Args:
        fleet: The fleet.
        rows: One row for each detector.
        searched: Trials of a sweep by detector.
    """
    out = fleet.general.out
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": created,
        "detectors": [{**asdict(row), "options": dict(row.options)} for row in rows],
        "sweeps": {name: one.to_json() for name, one in searched.items()},
    }
    write_json(out / "fleet.json", content)
    _write_csv(out / "fleet.csv", rows)
    with atomic_write(out / "fleet.html") as temporary:
        temporary.write_text(_page(rows, searched, created), encoding="utf-8")


def terminal_table(rows: Sequence[Row]) -> str:
    """Return the rows as a text table."""
    return table(
        [
            {
                "detector": row.name,
                "image AUROC": as_figure(row.image_auroc),
                "missed": share_of(row.missed, row.defects),
                "rejected": share_of(row.rejected, row.good),
                "threshold": "-" if row.threshold is None else f"{row.threshold:.4g}",
                "certificate": certificate_of(row),
                "MB": "-" if row.size_mb is None else f"{row.size_mb:.1f}",
                "s": "-" if row.seconds is None else f"{row.seconds:.0f}",
                "result": f"{row.state}: {row.reason}" if row.reason else row.state,
            }
            for row in rows
        ]
    )


def share_of(count: int | None, total: int | None) -> str:
    """Return a count with its total as text, "-" without one."""
    return "-" if count is None else f"{count} of {total}"


def certificate_of(row: Row) -> str:
    """Return precision and largest difference of a bundle as text, "-" without a bundle."""
    return "-" if row.certified_share is None else f"{row.precision}, {row.certified_share:.2%}"


def _write_csv(file: Path, rows: Sequence[Row]) -> None:
    names = [entry.name for entry in fields(Row)]
    with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, names)
        writer.writeheader()
        for row in rows:
            options = " ".join(f"{key}={value}" for key, value in row.options.items())
            writer.writerow({name: csv_cell(value) for name, value in {**asdict(row), "options": options}.items()})


def _page(rows: Sequence[Row], searched: Mapping[str, Searched], created: str) -> str:
    """Return the page as HTML without scripts or external files. All data is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": as_figure, "certificate": certificate_of}
    environment.globals |= {"share_of": share_of}
    return environment.get_template("page.html.jinja").render(rows=rows, searched=searched, created=created)
