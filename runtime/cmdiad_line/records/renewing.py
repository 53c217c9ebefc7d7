"""Renewal of records that are damaged or large. They are set aside, and new ones continue their chain."""

from __future__ import annotations

import datetime
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from cmdiad_line.records.chain import Head
from cmdiad_line.records.database import Continued, Database, database_path
from cmdiad_line.records.ids import AcquisitionIds
from cmdiad_line.records.verifying import verify_file
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.files import flush_folder

_SUFFIXES = ("", "-wal", "-shm")
"""Suffixes of the files of a database."""


@dataclass(frozen=True)
class Renewed:
    """Result of a renewal.

    Attributes:
        earlier: File of the earlier records.
        head: Last row of the earlier records that fits the chain.
        problem: First row of the earlier records that does not fit, as one line, or "".
    """

    earlier: Path
    head: Head
    problem: str


def renew_records(state: Path, user: str, note: str) -> Renewed:
    """Set the records of a stopped station aside and start new ones.

    Args:
        state: State folder, which the caller owns.
        user: Account, for the audit log.
        note: Reason, for the audit log.

    Raises:
        OutputError: A file cannot be read or written, or all acquisition ids are used up.
    """
    path = database_path(state)
    path.touch()  # If the records are gone, the first row of the new ones states it.
    _merge_log(path)
    head, problem, last_id = _examined(path)
    AcquisitionIds(state, last_id)  # Ids continue, also if the file of the ids is lost.
    earlier = _set_aside(path)
    details = {"sequence": head.sequence, "file": earlier.name, "problem": problem, "note": note}
    Database(state, continued=Continued(user, head.hash, details)).close()
    return Renewed(earlier, head, problem)


def _merge_log(path: Path) -> None:
    """Move all rows from the write-ahead log into the database file, as far as damage allows."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _examined(path: Path) -> tuple[Head, str, int]:
    """Return the last row that fits, the problem, and the largest acquisition id of records in any condition."""
    try:
        result = verify_file(path)
    except OutputError as error:
        return Head(), str(error), 0
    return result.head, result.problem, result.last_id


def _set_aside(path: Path) -> Path:
    time = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H%M%S")
    target = path.with_name(f"{path.stem}-{time}{path.suffix}")
    if target.exists():
        raise OutputError(target, found="a file", expected="a free name", action="run the command again")
    for suffix in _SUFFIXES:
        source = path.with_name(f"{path.name}{suffix}")
        if source.exists():
            source.rename(target.with_name(f"{target.name}{suffix}"))
    flush_folder(path.parent)
    return target
