"""Write the result of one sample as a line of `results.jsonl` and `results.csv` (docs/results.md)."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.pattern_inspector import PatternInspector
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.printable import printable

SCHEMA = 1
"""Version of a line. Fields may be added within a version; they never change their meaning."""
CSV_COLUMNS = (
    "time",
    "id",
    "input",
    "verdict",
    "reason",
    "inspected",
    "score",
    "threshold",
    "map_max",
    "message",
    "bundle",
    "bundle_sha256",
    "engine",
    "read_ms",
    "preprocess_ms",
    "engine_ms",
    "overlay",
    "pattern",
    "map_ms",
)
"""Columns of `results.csv`, in order. `pattern` is empty except with a bundle for whichever sensors arrive."""

_LONGEST_MESSAGE = 2000
_FORMULA = tuple("=+-@＝＋－＠")
"""First characters by which a spreadsheet takes a cell for a formula."""


@dataclass(frozen=True)
class Station:
    """Everything in a line that is the same for all samples of a run.

    Attributes:
        bundle: Name of the detector.
        bundle_sha256: SHA-256 of the bundle's manifest, which contains the hashes of all files of the bundle.
        engine: Library, version and device of the engine.
    """

    bundle: str
    bundle_sha256: str
    engine: str


def station_of(inspector: Inspector) -> Station:
    """Return the station of an open inspector."""
    bundle = inspector.bundle
    return Station(bundle.name, manifest_hash(bundle.manifest), inspector.engine.identity)


def stations_of(inspector: Inspector | PatternInspector) -> dict[Sensors | None, Station]:
    """Return the station of each pattern of an open inspector; one of the pattern None for an ordinary bundle."""
    return {one.pattern: station_of(one) for one in inspector.inspectors}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Id, reading time and picture of a sample in a folder of results.

    Attributes:
        part_id: Id of the part, unique in `results.jsonl`.
        read_ms: Duration of reading the file.
        overlay: Path of the overlay in the folder of results, or None.
        overlay_error: Reason why there is no overlay although one was requested; "" otherwise.
        file_state: `Arrived.state` of a sample in a watched folder, else None.
    """

    part_id: str
    read_ms: float
    overlay: str | None = None
    overlay_error: str = ""
    file_state: str | None = None


def result_line(inspection: Inspection, stored: Stored, station: Station) -> dict[str, Any]:
    """Return the line of a sample, ready for JSON, valid Unicode throughout."""
    result = inspection.to_dict()
    name = str(result.pop("name"))
    timings = {"read": round(stored.read_ms, 3), **result.pop("timings_ms")}
    line = {
        "schema": SCHEMA,
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "id": stored.part_id,
        "input": printable(name),
        "input_hex": None if printable(name) == name else os.fsencode(name).hex(),
        **result,
        "bundle": station.bundle,
        "bundle_sha256": station.bundle_sha256,
        "engine": station.engine,
        "timings_ms": timings,
        "overlay": stored.overlay,
        "overlay_error": printable(stored.overlay_error) or None,
        **({} if stored.file_state is None else {"file_state": stored.file_state}),
    }
    line["message"] = printable(str(line["message"]))[:_LONGEST_MESSAGE]
    return {key: _json_ready(value) for key, value in line.items()}


def json_line(line: Mapping[str, Any]) -> str:
    """Return the line of a sample as JSON in ASCII, without a line end."""
    return json.dumps(line, allow_nan=False)


def csv_header() -> str:
    """Return the first line of `results.csv`, without a line end."""
    return ",".join(CSV_COLUMNS)


def csv_line(line: Mapping[str, Any]) -> str:
    """Return the line of a sample as CSV, without a line end; see `csv_cell`."""
    timings = line.get("timings_ms") or {}
    cells = {**line, **{f"{stage}_ms": value for stage, value in timings.items()}}
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([csv_cell(cells.get(column)) for column in CSV_COLUMNS])
    return text.getvalue()


def csv_cell(value: object) -> object:
    """Return a value for CSV. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _json_ready(value: Any) -> Any:
    """Replace numbers without a JSON form by None."""
    if isinstance(value, dict):
        return {key: _json_ready(content) for key, content in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
