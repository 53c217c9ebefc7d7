"""The hash chain over all rows of a station's records.

All tables share one chain. The n-th row that was written, whatever its table, has the sequence number n and the hash

    SHA-256(previous hash, line feed, canonical JSON of the row)

in hexadecimal digits. The JSON contains the name of the table and all columns except the hash, with sorted keys and
without spaces. A changed, removed, inserted or moved row breaks the chain at that row. Rows removed from the end leave
a chain that is whole but shorter: compare its last hash with one that was noted elsewhere, for example in an export.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

Value = str | int | float | None

FIRST_HASH = "0" * 64
"""Hash before the first row of a database that continues no earlier one."""

CONTINUED = "records-continued"
"""Action of the first entry of the audit log if the records continue earlier ones; its details name their last hash."""


@dataclass(frozen=True)
class Head:
    """End of the chain.

    Attributes:
        sequence: Sequence number of the last row; 0 without rows.
        hash: Hash of the last row.
    """

    sequence: int = 0
    hash: str = FIRST_HASH


def canonical(value: object) -> str:
    """Return a value as JSON with sorted keys, without spaces and without characters outside ASCII.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def row_hash(previous: str, table: str, row: Mapping[str, Value]) -> str:
    """Return the hash of a row.

    Args:
        previous: Hash of the row before.
        table: Name of the table.
        row: Values by column, without the hash.
    """
    return hashlib.sha256(f"{previous}\n{canonical({'table': table, **row})}".encode()).hexdigest()
