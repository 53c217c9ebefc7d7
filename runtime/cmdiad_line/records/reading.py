"""Read-only access to the records of a station, while it runs or later.

For example:

    with RecordReader(state) as records:
        last = records.select(limit=50)
        shift = records.counters(since="2026-11-26T06:00:00")
"""

from __future__ import annotations

import datetime
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from cmdiad_line.records.database import database_path
from cmdiad_line.records.picture_places import part_folder
from cmdiad_line.records.read_only import connect_read_only, unreadable
from cmdiad_line.records.stored import AuditEntry, Counters, Remark, ScoreSeries, Selection, StoredResult

EVERYTHING = Selection()
_COLUMNS = tuple(StoredResult.__dataclass_fields__)
_JSON = ("sensors", "timings_ms")
_PAGE = 1000
_REJECTED = (
    "acquisition_id IN (SELECT acquisition_id FROM results WHERE verdict = 'NG' "
    "UNION ALL SELECT acquisition_id FROM corrections)"
)
"""Condition of all NG parts by the indexes. The published verdict, which a correction may change, has no index."""
_JUDGED = "acquisition_id IN (SELECT acquisition_id FROM judgements) AND"


class RecordReader:
    """Read-only access to `records.sqlite`. For one thread at a time, of any thread.

    Args:
        state: State folder of the station, or a database file, for example one that was set aside.

    Raises:
        OutputError: There are no records, they are damaged, or a newer cmdiad wrote them.
    """

    def __init__(self, state: Path) -> None:
        self._path = database_path(state) if state.is_dir() else state
        self._state = self._path.parent
        try:
            self._connection = connect_read_only(self._path)
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error

    def by_id(self, acquisition_id: int) -> StoredResult | None:
        """Return a part by its acquisition id, or None."""
        return next(self._results("WHERE acquisition_id = ?", (acquisition_id,)), None)

    def select(self, selection: Selection = EVERYTHING, *, limit: int = 50) -> list[StoredResult]:
        """Return the newest parts of a selection, newest first.

        Args:
            selection: Conditions.
            limit: Largest number of parts. For further ones, pass `before_id` of the last part.
        """
        where, values = _where(selection)
        return list(self._results(f"{where} ORDER BY acquisition_id DESC LIMIT ?", (*values, limit)))

    def stream(self, selection: Selection = EVERYTHING) -> Iterator[StoredResult]:
        """Yield all parts of a selection, oldest first, without holding the database between pages."""
        where, values = _where(selection, "acquisition_id > ?")
        last = -1
        while True:
            results = list(self._results(f"{where} ORDER BY acquisition_id LIMIT ?", (*values, last, _PAGE)))
            yield from results
            if len(results) < _PAGE:
                return
            last = results[-1].acquisition_id

    def to_review(self, *, near_share: float, since: str | None = None, limit: int = 50) -> list[StoredResult]:
        """Return parts for the review that nobody has judged, newest first: NG by the detector, and near the threshold.

        Args:
            near_share: OK parts belong to the review if the score is at least (1 - near_share) of the threshold.
            since: Earliest time of the trigger, ISO 8601 in UTC.
            limit: Largest number of parts.
        """
        order = "acquisition_id" if since is None else "+acquisition_id"  # With "+", the index of the times is used.
        condition = (
            f"WHERE score IS NOT NULL AND time >= ? AND (score >= (1 - ?) * threshold OR {_REJECTED}) "
            f"AND judgement IS NULL ORDER BY {order} DESC LIMIT ?"
        )
        return list(self._results(condition, (since or "", near_share, limit)))

    def counters(self, *, since: str, until: str | None = None) -> Counters:
        """Return the numbers of parts from a time on, for example the begin of the shift.

        Args:
            since: Earliest time of the trigger, ISO 8601 in UTC.
            until: Time of the trigger must be before this, or None.
        """
        where, values = _where(Selection(since=since, until=until))
        counted = "SELECT verdict, reason, count(*) FROM published"
        statement = f"{counted} {where} GROUP BY 1, 2 ORDER BY 3 DESC, 2"
        rows = self._rows(statement, values)
        ok = sum(count for verdict, _, count in rows if verdict == "OK")
        reasons = {reason: count for verdict, reason, count in rows if verdict == "NG"}
        ng = sum(reasons.values())
        return Counters(triggers=ok + ng, ok=ok, ng=ng, reasons=reasons)

    def scores(self, selection: Selection = EVERYTHING, *, limit: int = 2000) -> ScoreSeries:
        """Return the scores of the newest inspected parts of a selection, oldest first.

        Args:
            selection: Conditions, for example one recipe.
            limit: Largest number of parts.
        """
        where, values = _where(selection, "score IS NOT NULL")
        columns = "acquisition_id, time, score, threshold, verdict"
        statement = f"SELECT {columns} FROM published {where} ORDER BY acquisition_id DESC LIMIT ?"  # noqa: S608
        rows = self._rows(statement, (*values, limit))[::-1]
        ids, times, scores, thresholds, verdicts = list(zip(*rows, strict=True)) or [()] * 5
        return ScoreSeries(
            ids=np.array(ids, dtype=np.int64),
            times=np.array([seconds(time) for time in times], dtype=np.float64),
            scores=np.array(scores, dtype=np.float64),
            thresholds=np.array(thresholds, dtype=np.float64),
            accepted=np.array([verdict == "OK" for verdict in verdicts], dtype=np.bool_),
        )

    def judgements(self, acquisition_id: int) -> list[Remark]:
        """Return all judgements of a part, oldest first."""
        return self._remarks("judgements", "judgement", acquisition_id)

    def overrides(self, acquisition_id: int) -> list[Remark]:
        """Return all overrides of a part, oldest first."""
        return self._remarks("overrides", "verdict", acquisition_id)

    def audit(self, *, limit: int = 100, before: int | None = None) -> list[AuditEntry]:
        """Return the newest entries of the audit log, newest first.

        Args:
            limit: Largest number of entries.
            before: Only entries with a smaller sequence number, for pages of a list.
        """
        statement = (
            "SELECT sequence, hash, time, user, action, subject, details FROM audit WHERE sequence < ? "
            "ORDER BY sequence DESC LIMIT ?"
        )
        rows = self._rows(statement, (1 << 62 if before is None else before, limit))
        names = tuple(AuditEntry.__dataclass_fields__)
        return [AuditEntry(**{**dict(zip(names, row, strict=True)), "details": json.loads(row[-1])}) for row in rows]

    def pictures(self, result: StoredResult) -> Path | None:
        """Return the folder with the pictures of a part, or None if none are kept."""
        folder = part_folder(self._state, result.acquisition_id, result.time)
        return folder if folder.is_dir() else None

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._connection.close()

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remarks(self, table: str, column: str, acquisition_id: int) -> list[Remark]:
        statement = f"SELECT time, user, {column}, note FROM {table} WHERE acquisition_id = ? ORDER BY sequence"  # noqa: S608
        rows = self._rows(statement, (acquisition_id,))
        return [Remark(time=time, user=user, value=value, note=note) for time, user, value, note in rows]

    def _results(self, condition: str, values: tuple[object, ...]) -> Iterator[StoredResult]:
        for row in self._rows(f"SELECT {', '.join(_COLUMNS)} FROM published {condition}", values):  # noqa: S608
            content = dict(zip(_COLUMNS, row, strict=True))
            yield StoredResult(**{**content, **{name: json.loads(content[name]) for name in _JSON}})

    def _rows(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """Return all rows of a statement.

        Raises:
            OutputError: The file is damaged or locked.
        """
        try:
            with closing(self._connection.execute(statement, values)) as cursor:
                return cursor.fetchall()
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error


def seconds(time: str) -> float:
    """Return an ISO 8601 time as seconds since 1970 UTC."""
    return datetime.datetime.fromisoformat(time).timestamp()


def _where(selection: Selection, *others: str) -> tuple[str, tuple[object, ...]]:
    """Return the conditions of a selection and further ones as SQL, with the values of the selection."""
    conditions = {
        "time >= ?": selection.since,
        "time < ?": selection.until,
        f"{_REJECTED} AND verdict = ?" if selection.verdict == "NG" else "verdict = ?": selection.verdict,
        f"{_REJECTED} AND reason = ?" if selection.reason else "reason = ?": selection.reason,
        "recipe_id = ?": selection.recipe_id,
        "bundle_digest = ?": selection.bundle_digest,
        "part_id = ?": selection.part_id,
        "meas_id = ?": selection.meas_id,
        f"{_JUDGED if selection.judgement else ''} coalesce(judgement, '') = ?": selection.judgement,
        "acquisition_id < ?": selection.before_id,
    }
    used = {text: value for text, value in conditions.items() if value is not None}
    texts = [*used, *others]
    return (f"WHERE {' AND '.join(texts)}" if texts else ""), tuple(used.values())
