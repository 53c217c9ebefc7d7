"""Verification of the hash chain of records."""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cmdiad_line.records.chain import CONTINUED, FIRST_HASH, Head, Value, row_hash
from cmdiad_line.records.read_only import connect_read_only, unreadable
from cmdiad_line.records.schema import COLUMNS, create

TAIL = 200
"""Number of rows that are verified when the database is opened."""
_FIRST = -(2**63)
"""Smallest sequence number of SQLite, so that a row with a number below 1 is found."""

ChainRow = tuple[int, str, dict[str, Value], str]
"""Sequence number, table, values without the hash, and hash of a row."""


@dataclass(frozen=True)
class Verified:
    """Result of a verification.

    Attributes:
        rows: Number of rows that fit the chain, by table.
        head: Last row that fits the chain.
        problem: First row that does not fit, as one line for people; "" if all rows fit.
        last_id: Largest acquisition id among the rows that fit, or 0.
    """

    rows: dict[str, int]
    head: Head
    problem: str
    last_id: int


def verify_file(path: Path) -> Verified:
    """Verify the records in a database file; see `verify_chain`.

    Raises:
        OutputError: The file is no database of a station, of a newer cmdiad, or so damaged that it cannot be opened.
    """
    try:
        with closing(connect_read_only(path)) as connection:
            return verify_chain(connection)
    except sqlite3.Error as error:
        raise unreadable(path, error) from error


def verify_chain(connection: sqlite3.Connection) -> Verified:
    """Recompute the hash of every row, in the order of the chain, and stop at the first row that does not fit."""
    counts, last_id = dict.fromkeys(COLUMNS, 0), 0
    connection.execute("BEGIN")  # One view of all tables, although the station continues to write.
    head, problem = Head(), ""
    try:
        head = Head(0, first_hash(connection))
        for row in _rows(connection, _FIRST):
            problem = _mismatch(head, row)
            if problem:
                break
            head = Head(row[0], row[3])
            counts[row[1]] += 1
            last_id = max(last_id, int(row[2].get("acquisition_id") or 0))
        else:
            problem = _wrong_end(connection, head) or _wrong_schema(connection)
    except (sqlite3.DatabaseError, ValueError) as error:
        problem = f"The row after {head.sequence} cannot be read ({error})."
    finally:
        connection.execute("ROLLBACK")
    return Verified(counts, head, problem, last_id)


def verify_tail(connection: sqlite3.Connection) -> str:
    """Return the problem of the last rows as text, or "" if they fit the chain and its stored end."""
    connection.execute("BEGIN")
    try:
        head: Head | None = None
        for row in _rows(connection, stored_head(connection).sequence - TAIL + 1):
            problem = "" if head is None else _mismatch(head, row)
            if problem:
                return problem
            head = Head(row[0], row[3])
        return _wrong_end(connection, head or Head())
    finally:
        connection.execute("ROLLBACK")


def stored_head(connection: sqlite3.Connection) -> Head:
    """Return the end of the chain as the database states it.

    Raises:
        sqlite3.DatabaseError: There is none, which counts as damage (`database.is_damage`).
    """
    row = connection.execute("SELECT sequence, hash FROM head").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("malformed records: the end of the chain is missing")
    return Head(*row)


def first_hash(connection: sqlite3.Connection) -> str:
    """Return the hash before the first row: that of the records which these continue, or `FIRST_HASH`.

    Raises:
        ValueError: The entry does not name the last hash of the earlier records.
    """
    statement = "SELECT details FROM audit WHERE sequence = 1 AND action = ?"
    row = connection.execute(statement, (CONTINUED,)).fetchone()
    if row is None:
        return FIRST_HASH
    details = json.loads(row[0])
    if not isinstance(details, dict) or not isinstance(details.get("previous"), str):
        raise ValueError("the hash of the earlier records is missing")
    previous: str = details["previous"]
    return previous


def _rows(connection: sqlite3.Connection, first: int) -> Iterator[ChainRow]:
    """Return the rows of all tables from a sequence number on, in the order of the chain."""
    return heapq.merge(*(_table_rows(connection, table, first) for table in COLUMNS), key=lambda row: row[0])


def _table_rows(connection: sqlite3.Connection, table: str, first: int) -> Iterator[ChainRow]:
    names = [*COLUMNS[table], "sequence"]
    statement = f"SELECT {', '.join(names)}, hash FROM {table} WHERE sequence >= ? ORDER BY sequence"  # noqa: S608
    for *values, digest in connection.execute(statement, (first,)):
        yield values[-1], table, dict(zip(names, values, strict=True)), digest


def _mismatch(head: Head, row: ChainRow) -> str:
    """Return why a row does not follow the row before, or ""."""
    sequence, table, values, digest = row
    part = f", part {values['acquisition_id']}" if "acquisition_id" in values else ""
    place = f"Row {sequence} (table {table}{part})"
    if sequence != head.sequence + 1:
        return f"{place} follows row {head.sequence}: rows are missing."
    if row_hash(head.hash, table, values) != digest:
        return f"{place} was changed: its hash does not fit its content and the row before."
    return ""


def _wrong_end(connection: sqlite3.Connection, head: Head) -> str:
    stored = stored_head(connection)
    if stored == head:
        return ""
    return f"The last row is {head.sequence}, but the chain ends at {stored.sequence}: rows are missing at the end."


def _wrong_schema(connection: sqlite3.Connection) -> str:
    """Return why the tables are not those of a station, or "": a changed view shows other verdicts than the rows."""
    with closing(sqlite3.connect(":memory:")) as fresh:
        create(fresh)
        expected, present = _definitions(fresh), _definitions(connection)
    names = sorted({name for _, name, _ in expected ^ present})
    return f"The definition of {', '.join(names)} was changed." if names else ""


def _definitions(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Return kind, name and SQL of all tables, views, indexes and triggers except those that SQLite makes itself."""
    return set(
        connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
    )
