"""The store of results that the broker has not confirmed: a bounded queue in a SQLite file.

The results survive a restart. If the store is full, the oldest results are dropped and counted. After a power cut the
last results may be missing or sent twice; the records of the station are complete.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from cmdiad_line.records.database import is_damage

FILE_NAME = "mqtt.sqlite"
logger = logging.getLogger("cmdiad.line.mqtt")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counts VALUES ('dropped', 0);
"""


class Outbox:
    """The store of one station.

    Args:
        folder: Folder of the file.
        largest_count: Largest number of messages.
        largest_bytes: Largest sum of the sizes of the messages in bytes.

    Attributes:
        count: Number of messages.
        size: Sum of the sizes of the messages in bytes.
        dropped: Number of messages that were dropped, since the file was created.
    """

    def __init__(self, folder: Path, *, largest_count: int, largest_bytes: int) -> None:
        self._largest_count = largest_count
        self._largest_bytes = largest_bytes
        self._confirmed: set[int] = set()  # Confirmed messages that could not be removed yet.
        self._refuses = False  # True while the disk takes no changes.
        self._database = _open(folder / FILE_NAME)
        row = self._database.execute("SELECT count(*), coalesce(sum(length(payload)), 0) FROM messages").fetchone()
        self.count, self.size = int(row[0]), int(row[1])
        self.dropped = int(self._database.execute("SELECT value FROM counts WHERE name = 'dropped'").fetchone()[0])

    def add(self, payload: bytes) -> None:
        """Store a message as the newest one. If it cannot be written, it counts as dropped."""
        before = self.count, self.size, self.dropped
        try:
            with self._database:
                self._store(payload)
        except sqlite3.Error as error:  # The transaction was rolled back.
            self.count, self.size, self.dropped = before
            self.dropped += 1
            self._report(error)
        else:
            self._report(None)

    def _store(self, payload: bytes) -> None:
        if len(payload) > self._largest_bytes:
            self._count_dropped(1)
            return
        self._make_room(len(payload))
        self._database.execute("INSERT INTO messages (payload) VALUES (?)", (payload,))
        self.count += 1
        self.size += len(payload)

    def _make_room(self, needed: int) -> None:
        """Drop the oldest messages until a new one fits."""
        dropped = 0
        while self.count >= self._largest_count or self.size + needed > self._largest_bytes:
            number, length = self._database.execute(
                "SELECT number, length(payload) FROM messages ORDER BY number LIMIT 1"
            ).fetchone()
            self._database.execute("DELETE FROM messages WHERE number = ?", (number,))
            self.count -= 1
            self.size -= length
            dropped += 1
        if dropped:
            self._count_dropped(dropped)

    def _count_dropped(self, number: int) -> None:
        self.dropped += number
        self._database.execute("UPDATE counts SET value = ? WHERE name = 'dropped'", (self.dropped,))

    def after(self, number: int, limit: int) -> list[tuple[int, bytes]]:
        """Return the oldest messages whose number is larger, as number and payload."""
        query = "SELECT number, payload FROM messages WHERE number > ? ORDER BY number LIMIT ?"
        return [(int(row[0]), bytes(row[1])) for row in self._database.execute(query, (number, limit))]

    def newest(self) -> int:
        """Return the number of the newest message, 0 without messages."""
        return int(self._database.execute("SELECT coalesce(max(number), 0) FROM messages").fetchone()[0])

    def remove(self, number: int) -> None:
        """Remove a message that the broker has confirmed. No effect if the message was dropped meanwhile.

        A message that cannot be removed, for example on a full disk, is removed by a later call. After a restart
        before that call it is sent again.
        """
        self._confirmed.add(number)
        before = self.count, self.size
        try:
            with self._database:
                for confirmed in self._confirmed:
                    self._delete(confirmed)
        except sqlite3.Error as error:  # The transaction was rolled back.
            self.count, self.size = before
            self._report(error)
        else:
            self._confirmed.clear()
            self._report(None)

    def _delete(self, number: int) -> None:
        row = self._database.execute("SELECT length(payload) FROM messages WHERE number = ?", (number,)).fetchone()
        if row is not None:
            self._database.execute("DELETE FROM messages WHERE number = ?", (number,))
            self.count -= 1
            self.size -= int(row[0])

    def _report(self, error: sqlite3.Error | None) -> None:
        """Log the first failure to change the file, and the end of the failures."""
        if error is not None and not self._refuses:
            logger.warning("the results for the broker cannot be stored (%s); new ones are dropped", error)
        elif error is None and self._refuses:
            logger.warning("the results for the broker can be stored again")
        self._refuses = error is not None

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._database.close()


def _open(path: Path) -> sqlite3.Connection:
    """Open the file; a damaged one is set aside, because no message in it can be trusted.

    Raises:
        sqlite3.Error: The file cannot be opened now, for example on a full disk. It stays where it is.
    """
    try:
        return _connect(path)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        aside = path.with_name(f"{path.name}.damaged")
        logger.warning("%s is damaged (%s) and was set aside as %s", path, error, aside)
        path.replace(aside)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("corrupt pages")
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
