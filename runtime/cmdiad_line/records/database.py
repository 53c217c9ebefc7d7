"""The database of a station, to which rows are added durably.

A committed row survives a power failure: SQLite writes ahead (WAL) and flushes at each commit (`synchronous=FULL`).
Other processes read at the same time. The end of the chain is read within each transaction, so a command may add to
the audit log while the station runs.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdiad_line.records import schema
from cmdiad_line.records.chain import Head
from cmdiad_line.records.ids import reserved_ids
from cmdiad_line.records.rows import Rows
from cmdiad_line.records.verifying import verify_tail
from cmdiad_runtime.errors import OutputError

FILE_NAME = "records.sqlite"
BUSY_MS = 200
"""Longest time to wait for another process that writes, milliseconds. The part in work becomes NG after that."""
LEAST_SQLITE = (3, 37)
_CHECK_SECONDS = 0.5
_INSTRUCTIONS = 10_000
_PIECE = 1 << 20
LOG_BYTES = 8 << 20
"""Size in bytes that `reserve_log` gives the write-ahead log. The rows of UNTIDY_COMMITS commits fit."""
UNTIDY_COMMITS = 256
"""Number of commits after which `tidy` cannot wait for a pause any longer."""


class RecordsError(OutputError):
    """The records cannot be opened, or rows cannot be added."""


class DamagedRecordsError(RecordsError):
    """The database is damaged. The station stays not ready until a person has set it aside."""


def database_path(state: Path) -> Path:
    """Return the path of the database in a state folder."""
    return state / FILE_NAME


@dataclass(frozen=True)
class Continued:
    """The records that new ones continue, see `cmdiad_line.records.renewing`.

    Attributes:
        user: Account that set the earlier records aside.
        previous: Last hash of the earlier records.
        details: Further facts, for the audit log.
    """

    user: str
    previous: str
    details: dict[str, Any]


class Database:
    """The records of a station, open for adding rows.

    Args:
        state: State folder of the station, which must exist.
        continued: Earlier records that a new database continues, or None.

    Attributes:
        path: The database file.

    Raises:
        DamagedRecordsError: The file is damaged, its last rows do not fit the chain, or it is gone.
        RecordsError: The file cannot be opened, or a newer cmdiad wrote it.
    """

    def __init__(self, state: Path, *, continued: Continued | None = None) -> None:
        self.path = database_path(state)
        self._commits = 0
        _check_library(self.path)
        try:
            self._connection = _connected(self.path)
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error
        try:
            self._prepare(state, continued)
        except sqlite3.Error as error:
            self.close()
            raise _unusable(self.path, error) from error
        except BaseException:
            self.close()
            raise

    def _prepare(self, state: Path, continued: Continued | None) -> None:
        """Create the tables of a new file, otherwise check the file."""
        if not self._value("SELECT count(*) FROM sqlite_schema"):
            if continued is None and reserved_ids(state):
                raise damaged_records(self.path, "no records, although the station has inspected parts before")
            with self.transaction(new=True) as rows:
                if continued is None:
                    rows.audit("station", "records-created", self.path.name, {})
                else:
                    rows.continue_chain(continued.user, continued.previous, continued.details)
            return
        _check_version(self.path, self._value("PRAGMA application_id"), self._value("PRAGMA user_version"))
        _quick_check(self.path, self._connection)
        problem = verify_tail(self._connection)
        if problem:
            raise damaged_records(self.path, problem)

    @contextlib.contextmanager
    def transaction(self, *, new: bool = False) -> Iterator[Rows]:
        """Yield the rows of one transaction, which are on the disk when the block has ended.

        Args:
            new: True to create the tables first.

        Raises:
            sqlite3.Error: The rows could not be stored; none of them is.
        """
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            if new:
                schema.create(connection)
                connection.execute("INSERT INTO head VALUES (1, ?, ?)", (Head().sequence, Head().hash))
            yield Rows(connection)
            connection.execute("COMMIT")
            self._commits += 1
        except BaseException:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise

    @property
    def last_id(self) -> int:
        """Return the largest stored acquisition id, 0 without rows."""
        return int(self._value("SELECT coalesce(max(acquisition_id), 0) FROM results"))

    def tidy(self) -> None:
        """Move rows from the write-ahead log into the database file. Never blocks readers.

        Call this while there are no parts.
        """
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._commits = 0

    @property
    def is_untidy(self) -> bool:
        """Return True if `tidy` must not wait for a pause any longer, because the write-ahead log has many rows."""
        return self._commits >= UNTIDY_COMMITS

    def reserve_log(self) -> None:
        """Give the write-ahead log its full size, so that no commit makes the file larger.

        A flush that also makes a file larger waits for the journal of the file system, often for several milliseconds.
        SQLite ignores the zeros after the last row of the log. Without room on the disk the log grows as needed.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        with contextlib.suppress(sqlite3.Error, OSError):
            self._connection.execute("BEGIN IMMEDIATE")  # No other process may write meanwhile.
            try:
                _fill(log, LOG_BYTES)
            finally:
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._connection.close()

    def _value(self, statement: str) -> int:
        value = self._connection.execute(statement).fetchone()[0]
        assert isinstance(value, int)
        return value


def failure(error: sqlite3.Error) -> tuple[str, str]:
    """Return the reason code and a line for people about rows that were not stored."""
    text = str(error).lower()
    if "full" in text:
        return "disk-full", f"The disk has no room for the record of the result ({error})."
    if "locked" in text or "busy" in text:
        return "not-recorded", "Another program holds the database of the station for too long."
    return "not-recorded", f"The result could not be recorded ({error})."


def is_damage(error: sqlite3.Error) -> bool:
    """Return True if an error means that the file is damaged: no later attempt can succeed."""
    return isinstance(error, sqlite3.DatabaseError) and any(
        sign in str(error).lower() for sign in ("malformed", "not a database", "corrupt")
    )


def damaged_records(path: Path, problem: str) -> DamagedRecordsError:
    """Return the error about a database that a person must set aside."""
    return DamagedRecordsError(
        path,
        found=problem,
        expected="whole records",
        action=f"keep a copy, then run: cmdiad-line renew {path.parent}. It sets the file aside and starts new records",
    )


def _connected(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(OSError):  # An existing file is kept, and SQLite explains every other error.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # See `tidy`: a checkpoint must not delay a part.
    return connection


def _fill(path: Path, size: int) -> None:
    """Append zeros to a file until it has a size, and flush it. A full disk leaves the file as it was.

    Raises:
        OSError: The file is missing, or there is no room.
    """
    with path.open("r+b", buffering=0) as file:
        present = file.seek(0, os.SEEK_END)
        try:
            for start in range(present, size, _PIECE):
                file.write(bytes(min(_PIECE, size - start)))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(present)
            raise


def _check_library(path: Path) -> None:
    if sqlite3.sqlite_version_info < LEAST_SQLITE:
        least = ".".join(map(str, LEAST_SQLITE))
        raise RecordsError(
            path,
            found=f"the library SQLite {sqlite3.sqlite_version}",
            expected=f"version {least} or later, which checks the types of values",
            action="use a Python with a newer SQLite, for example one that uv installs",
        )


def _check_version(path: Path, application: int, version: int) -> None:
    if application != schema.APPLICATION:
        raise damaged_records(path, "another kind of database")
    if version > schema.VERSION:
        raise RecordsError(
            path,
            found=f"records of version {version}",
            expected=f"at most version {schema.VERSION}",
            action="update cmdiad",
        )


def _quick_check(path: Path, connection: sqlite3.Connection) -> None:
    """Raise DamagedRecordsError for pages that are damaged. A large file is checked for half a second only."""
    end = time.monotonic() + _CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS)
    try:
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "interrupt" not in str(error).lower():
            raise
        problem = "ok"
    finally:
        connection.set_progress_handler(None, 0)
    if problem != "ok":
        raise damaged_records(path, f"a damaged page ({problem})")


def _unusable(path: Path, error: sqlite3.Error) -> RecordsError:
    if is_damage(error):
        return damaged_records(path, f"a damaged database ({error})")
    return RecordsError(
        path,
        found=f"a database that cannot be opened ({error})",
        expected="a file that this account can read and write, and room on the disk",
        action="free some space, or end the program that uses the file",
    )
