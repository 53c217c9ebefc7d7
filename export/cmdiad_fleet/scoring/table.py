"""The results of a shard as a Parquet file: the fields of `results.jsonl`, one row for each sample.

Nested values are Arrow lists and structs, so a query engine reads `timings_ms.engine` without parsing text. The footer
of the file names the run and the shard, so a file from another run is recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmdiad_fleet.scoring.tally import Tally
from cmdiad_runtime.support.files import atomic_write

RUN_KEY = b"cmdiad.run"
"""Key of the footer with the digest of the run, see `ScoreRecord.digest`."""


def write_table(path: Path, lines: Sequence[dict[str, Any]], run: str) -> None:
    """Write the results of a shard; the file appears complete or not at all.

    Args:
        path: File to write.
        lines: Lines of the samples, see `result_line`.
        run: Digest of the run.

    Raises:
        OutputError: The file cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    schema = _schema().with_metadata({RUN_KEY: run.encode()})
    with atomic_write(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(lines), schema), temporary, compression="zstd")


def read_tally(path: Path, rows: int, run: str) -> Tally | None:
    """Return the counts of a finished shard, or None if the file is damaged, incomplete or of another run.

    Args:
        path: File of the shard.
        rows: Number of rows that the shard must have.
        run: Digest of the run.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            belongs = (file.schema_arrow.metadata or {}).get(RUN_KEY) == run.encode()
            if not belongs or file.metadata.num_rows != rows:
                return None
            columns = file.read(["reason", "inspected"])
    except (OSError, pyarrow.ArrowException):
        return None
    return Tally.of(columns["reason"].to_pylist(), columns["inspected"].to_pylist())


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    return pa.schema(
        [
            pa.field("schema", pa.int32(), nullable=False),
            pa.field("time", text, nullable=False),
            pa.field("id", text, nullable=False),
            pa.field("input", text, nullable=False),
            pa.field("input_hex", text),
            pa.field("verdict", text, nullable=False),
            pa.field("reason", text),
            pa.field("message", text, nullable=False),
            pa.field("inspected", pa.bool_(), nullable=False),
            pa.field("score", number),
            pa.field("threshold", number, nullable=False),
            pa.field("map_max", number),
            pa.field("skipped_checks", pa.list_(text), nullable=False),
            pa.field("ignored_share", number),
            pa.field("bundle", text, nullable=False),
            pa.field("bundle_sha256", text, nullable=False),
            pa.field("engine", text, nullable=False),
            pa.field(
                "timings_ms", pa.struct([(stage, number) for stage in ("read", "preprocess", "engine")]), nullable=False
            ),
            pa.field("overlay", text),
            pa.field("overlay_error", text),
        ]
    )
