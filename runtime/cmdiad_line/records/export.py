"""Export of the results of a span of time as CSV, as Parquet, or with their pictures."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any

from cmdiad_line.records.chain import canonical
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.stored import Selection, StoredResult
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.names import INSPECTION_STAGES
from cmdiad_runtime.support.files import atomic_directory, atomic_write

STAGES = (*INSPECTION_STAGES, "acquired", "inspected", "published")
"""Stages of which a row can have the time. The time of recording is none of them: a row is written before."""
RESULTS = "results.jsonl"
_NESTED = ("sensors", "timings_ms")
_NUMBERS = ("score", "map_max", "threshold")
_WHOLE = ("sequence", "acquisition_id", "triggered_ns")
_PAGE = 1000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

COLUMNS = (
    *(entry.name for entry in fields(StoredResult) if entry.name not in _NESTED),
    "sensors",
    *(f"ms_{stage}" for stage in STAGES),
)
"""Columns of the tables. `sensors` is a JSON object, `ms_STAGE` are milliseconds."""


def export_csv(records: RecordReader, selection: Selection, path: Path) -> int:
    """Write results as CSV (UTF-8, comma, a line of column names), and return their number.

    Text that a spreadsheet would run as a formula begins with an apostrophe.

    Raises:
        OutputError: The records cannot be read, or the file cannot be written.
    """
    count = 0
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for result in records.stream(selection):
            writer.writerow({name: _plain(value) for name, value in _flat(result).items()})
            count += 1
    return count


def export_parquet(records: RecordReader, selection: Selection, path: Path) -> int:
    """Write results as a Parquet file, and return their number.

    Raises:
        EngineError: The package pyarrow is missing.
        OutputError: The records cannot be read, or the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EngineError(
            "",
            found="Parquet files need the package 'pyarrow', which is not installed",
            action='run: pip install "cmdiad[parquet]", or export CSV',
        ) from error
    floats = {*_NUMBERS, *(f"ms_{stage}" for stage in STAGES)}
    kinds = {
        name: pyarrow.float64() if name in floats else pyarrow.int64() if name in _WHOLE else pyarrow.string()
        for name in COLUMNS
    }
    schema = pyarrow.schema(list(kinds.items()))
    count = 0
    with atomic_write(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for page in _pages(records.stream(selection)):
            writer.write_table(pyarrow.Table.from_pylist([_flat(result) for result in page], schema))
            count += len(page)
    return count


def export_pictures(records: RecordReader, selection: Selection, folder: Path) -> tuple[int, int]:
    """Write results as JSON lines with the pictures that are kept, into a new folder.

    The folder contains `results.jsonl`, one result per line, and a folder of pictures for each part that has some; the
    field `pictures` names it, or is null.

    Returns:
        Number of results, and number of parts with pictures.

    Raises:
        OutputError: The records cannot be read, or the folder exists or cannot be written.
    """
    count = with_pictures = 0
    with atomic_directory(folder) as temporary, (temporary / RESULTS).open("w", encoding="utf-8") as file:
        for result in records.stream(selection):
            source = records.pictures(result)
            name = f"{result.acquisition_id:010d}" if source is not None and _copied(source, temporary) else None
            file.write(json.dumps({**asdict(result), "pictures": name}) + "\n")
            count += 1
            with_pictures += name is not None
    return count, with_pictures


def _copied(source: Path, target: Path) -> bool:
    """Copy a folder of pictures; return False if the ring removed it meanwhile."""
    try:
        shutil.copytree(source, target / source.name)
    except (FileNotFoundError, shutil.Error):
        shutil.rmtree(target / source.name, ignore_errors=True)
        return False
    return True


def _flat(result: StoredResult) -> dict[str, Any]:
    """Return a result as one value per column."""
    content = {entry.name: getattr(result, entry.name) for entry in fields(result) if entry.name not in _NESTED}
    timings = {f"ms_{stage}": result.timings_ms.get(stage) for stage in STAGES}
    return {**content, "sensors": canonical(result.sensors), **timings}


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _pages(results: Iterator[StoredResult]) -> Iterator[list[StoredResult]]:
    while page := list(islice(results, _PAGE)):
        yield page
