"""Cut a manifest into numbered shards. A shard has results for all its rows, or none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cmdiad_fleet.manifest.rows import ManifestRow

RESULTS = "results"
PICTURES = "pictures"
MARKS = "marks"

DEFAULT_ROWS = 1000
"""Default number of rows of a shard."""
MOST_SHARDS = 100_000
"""Most shards of a manifest, whose names sort like their numbers."""


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a manifest.

    Attributes:
        number: Position of the shard, from 0.
        rows: Rows in the order of the manifest.
        one_by_one: True if a worker died over the shard: no two samples are in the engine together, so that the next
            death shows which row was in work. Not part of the digest.
    """

    number: int
    rows: tuple[ManifestRow, ...]
    one_by_one: bool = False

    @property
    def name(self) -> str:
        """Return the name of the shard's files, without a suffix; names sort like numbers."""
        return f"{self.number:05d}"

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the rows: positions, identifiers, places of files, reasons."""
        rows = [(row.number, row.part_id, sorted(row.places.items()), row.reason) for row in self.rows]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def results(self, folder: Path) -> Path:
        """Return the file of the results, whose existence means that the shard is finished."""
        return folder / RESULTS / f"{self.name}.parquet"

    def pictures(self, folder: Path) -> Path:
        """Return the folder of the pictures."""
        return folder / PICTURES / self.name

    def mark(self, folder: Path) -> Path:
        """Return the file in which a worker notes the row that is in work."""
        return folder / MARKS / self.name


def cut(rows: Iterable[ManifestRow], size: int) -> Iterator[Shard]:
    """Yield the shards of a manifest; the last one may be smaller.

    Args:
        rows: Rows of the manifest.
        size: Number of rows of a shard.
    """
    rows, number = iter(rows), 0
    while block := tuple(islice(rows, size)):
        yield Shard(number, block)
        number += 1
