"""Entries that commands add to the audit log, also while the station runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmdiad_line.records.database import Database, RecordsError, failure


def note_change(state: Path, user: str, action: str, subject: str, details: Mapping[str, Any]) -> None:
    """Add an entry to the audit log of a station.

    Args:
        state: State folder.
        user: Account that made the change.
        action: Name of the action.
        subject: Object of the action.
        details: Further facts as JSON values.

    Raises:
        RecordsError: The records cannot be used. Call this function before the change, so that every change is noted.
    """
    database = Database(state)
    try:
        with database.transaction() as rows:
            rows.audit(user, action, subject, details)
    except sqlite3.Error as error:
        raise RecordsError(
            database.path, found=failure(error)[1], expected="room and no other writer", action="run the command again"
        ) from error
    finally:
        database.close()
