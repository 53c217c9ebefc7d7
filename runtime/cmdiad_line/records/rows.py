"""The rows of one transaction, appended to the chain."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Mapping
from typing import Any

from cmdiad_line.records.chain import CONTINUED, Head, Value, canonical, row_hash
from cmdiad_line.records.schema import COLUMNS
from cmdiad_line.records.verifying import stored_head
from cmdiad_line.transport.messages import Correct, Record

JUDGEMENTS = ("good", "defect", "unsure")


class RefusedError(ValueError):
    """A row was refused; the message is one line for people. Nothing was stored."""


class Rows:
    """Rows that are added within one transaction.

    Args:
        connection: Connection with an open transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._head = stored_head(connection)

    def record(self, record: Record) -> None:
        """Add the row of a result.

        A row that is stored already is kept. If its verdict is OK and the new one NG, the NG is added as a correction.

        Raises:
            RefusedError: The stored verdict is NG, and the new one OK.
        """
        result = record.result
        stored = self._published(result.acquisition_id)
        if stored is None:
            self._append("results", _columns(record))
        elif result.verdict == "NG":
            self._correct(stored, result.acquisition_id, result.reason, result.message)
        elif stored[0] == "NG":
            raise RefusedError(f"The part {result.acquisition_id} is recorded as NG already.")

    def correct(self, correction: Correct) -> None:
        """Add the NG that was published instead of a stored result, unless the stored result is the same."""
        stored = self._published(correction.acquisition_id)
        if stored is None:
            details = {"reason": correction.reason, "message": correction.message}
            self.audit("station", "correction-without-row", str(correction.acquisition_id), details)
            return
        self._correct(stored, correction.acquisition_id, correction.reason, correction.message)

    def judge(self, acquisition_id: int, user: str, judgement: str, note: str) -> None:
        """Add a person's judgement of a part.

        Raises:
            RefusedError: There is no such part or judgement.
        """
        if judgement not in JUDGEMENTS:
            raise RefusedError(f"A judgement is one of {', '.join(JUDGEMENTS)}, not {judgement!r:.40}.")
        self._require_row(acquisition_id)
        self._append("judgements", {**_by(acquisition_id, user, note), "judgement": judgement})

    def override(self, acquisition_id: int, user: str, verdict: str, note: str) -> None:
        """Add that a person overrode the verdict of a part. The verdict that was published stays stored.

        Raises:
            RefusedError: There is no such part or verdict.
        """
        if verdict not in ("OK", "NG"):
            raise RefusedError(f"A verdict is OK or NG, not {verdict!r:.40}.")
        self._require_row(acquisition_id)
        self._append("overrides", {**_by(acquisition_id, user, note), "verdict": verdict})

    def audit(self, user: str, action: str, subject: str, details: Mapping[str, Any]) -> None:
        """Add an entry to the audit log.

        Args:
            user: Account or channel that did it.
            action: Name of the action, for example "threshold".
            subject: Object of the action, for example the recipe.
            details: Further facts as JSON values.
        """
        values = {"time": _now(), "user": user, "action": action, "subject": subject, "details": canonical(details)}
        self._append("audit", values)

    def continue_chain(self, user: str, previous: str, details: Mapping[str, Any]) -> None:
        """Begin the chain of an empty database with the last hash of the earlier database, and note it."""
        assert self._head.sequence == 0, "only an empty database continues another one"
        self._head = Head(0, previous)
        self.audit(user, CONTINUED, "", {**details, "previous": previous})

    def _correct(self, stored: tuple[str, str], acquisition_id: int, reason: str, message: str) -> None:
        if stored != ("NG", reason):
            values: dict[str, Value] = {"acquisition_id": acquisition_id, "time": _now(), "verdict": "NG"}
            self._append("corrections", {**values, "reason": reason, "message": message})

    def _require_row(self, acquisition_id: int) -> None:
        if self._published(acquisition_id) is None:
            raise RefusedError(f"There is no part with the id {acquisition_id}.")

    def _published(self, acquisition_id: int) -> tuple[str, str] | None:
        """Return verdict and reason of a stored part, or None."""
        statement = "SELECT verdict, reason FROM published WHERE acquisition_id = ?"
        row: tuple[str, str] | None = self._connection.execute(statement, (acquisition_id,)).fetchone()
        return row

    def _append(self, table: str, values: Mapping[str, Value]) -> None:
        assert values.keys() == COLUMNS[table].keys(), table
        sequence = self._head.sequence + 1
        row = {**{name: _storable(value) for name, value in values.items()}, "sequence": sequence}
        digest = row_hash(self._head.hash, table, row)
        columns, marks = ", ".join([*row, "hash"]), ", ".join("?" * (len(row) + 1))
        self._connection.execute(
            f"INSERT INTO {table} ({columns}) VALUES ({marks})",  # noqa: S608 - names of the schema, no input
            [*row.values(), digest],
        )
        self._head = Head(sequence, digest)
        self._connection.execute("UPDATE head SET sequence = ?, hash = ?", (sequence, digest))


def _columns(record: Record) -> dict[str, Value]:
    result = record.result
    return {
        "acquisition_id": result.acquisition_id,
        "time": result.time,
        "triggered_ns": record.triggered_ns,
        "part_id": result.part_id,
        "meas_id": result.meas_id,
        "channel": result.channel,
        "recipe_id": result.recipe_id,
        "bundle_digest": result.bundle_digest,
        "sensors": canonical(record.sensors),
        "engine": record.engine,
        "score": result.score,
        "map_max": record.map_max,
        "threshold": result.threshold,
        "verdict": result.verdict,
        "reason": result.reason,
        "message": result.message,
        "timings_ms": canonical(result.timings_ms),
    }


def _storable(value: Value) -> Value:
    """Return text without halves of surrogate pairs, which JSON may contain and SQLite cannot store."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _by(acquisition_id: int, user: str, note: str) -> dict[str, Value]:
    return {"acquisition_id": acquisition_id, "time": _now(), "user": user, "note": note}


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
