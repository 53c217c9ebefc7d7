"""Open a database of records for reading."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from cmdiad_line.records.schema import APPLICATION, VERSION
from cmdiad_runtime.errors import OutputError

_WAIT_S = 1.0


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Return a connection that cannot write, for any thread.

    Raises:
        OutputError: The file is no database of a station, or of a newer cmdiad.
        sqlite3.Error: The file is missing or damaged.
    """
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except BaseException:
        connection.close()
        raise
    if application != APPLICATION or version > VERSION:
        connection.close()
        problem = "another kind of database" if application != APPLICATION else f"records of version {version}"
        expected = f"records of a station, version {VERSION} at most"
        raise OutputError(path, found=problem, expected=expected, action="check the path, or update cmdiad")
    return connection


def unreadable(path: Path, error: sqlite3.Error) -> OutputError:
    """Return the error about records that cannot be read."""
    return OutputError(
        path,
        found=f"records that cannot be read ({error})",
        expected="the records of a station",
        action="check the path; if the file is damaged: cmdiad-line verify",
    )
