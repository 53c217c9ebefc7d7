"""Write the results of a shard to a Parquet file: the fields of `results.jsonl`, one row for each sample.

Nested values are Arrow lists and structs, so a query engine reads `timings_ms.engine` without parsing text. The footer
of the file names the run and the rows of the shard, so a file from another run or of other rows is recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmdiad_fleet.scoring.shards import Shard
from cmdiad_fleet.scoring.tally import Tally
from cmdiad_runtime.names import INSPECTION_STAGES
from cmdiad_runtime.support.files import atomic_write

RUN_KEY = b"cmdiad.run"
"""Key of the footer with the digest of the run, see `ScoreRecord.digest`."""
SHARD_KEY = b"cmdiad.shard"
"""Key of the footer with the digest of the rows that were scored, see `Shard.digest`."""


def require_parquet() -> None:
    """Import the package that writes results, so that a run without the package ends before it writes anything.

    Raises:
        ModuleNotFoundError: The package pyarrow is not installed.
    """
    import pyarrow.parquet  # noqa: F401 - imported for the error alone


def write_table(path: Path, lines: Sequence[dict[str, Any]], run: str, shard: Shard) -> None:
    """Write the results of a shard; the file appears complete or not at all.

    Args:
        path: File to write.
        lines: Lines of the samples, see `result_line`.
        run: Digest of the run.
        shard: Shard that the lines belong to.

    Raises:
        OutputError: The file cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    schema = _schema().with_metadata(_footer(run, shard))
    with atomic_write(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(lines), schema), temporary, compression="zstd")


def read_tally(path: Path, run: str, shard: Shard) -> Tally | None:
    """Return the counts of a finished shard, or None if the file is damaged, of another run, or of other rows.

    Args:
        path: File of the shard.
        run: Digest of the run.
        shard: Shard that the file must have the results of.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            footer, expected = file.schema_arrow.metadata or {}, _footer(run, shard)
            belongs = {key: footer.get(key) for key in expected} == expected
            if not belongs or file.metadata.num_rows != len(shard.rows):
                return None
            columns = file.read(["reason", "inspected"])
    except (OSError, pyarrow.ArrowException):
        return None
    return Tally.of(columns["reason"].to_pylist(), columns["inspected"].to_pylist())


def _footer(run: str, shard: Shard) -> dict[bytes, bytes]:
    return {RUN_KEY: run.encode(), SHARD_KEY: shard.digest.encode()}


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    timings = pa.struct([(stage, number) for stage in ("read", *INSPECTION_STAGES)])
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
            pa.field("timings_ms", timings, nullable=False),
            pa.field("overlay", text),
            pa.field("overlay_error", text),
        ]
    )
