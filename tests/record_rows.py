"""Rows for the tests of the records."""

from __future__ import annotations

from typing import Any

from cmdiad_line.transport.messages import Record
from station_messages import part_result


def a_record(number: int, **changes: Any) -> Record:
    """Return the row of a part, OK with the score 0.5 unless changed."""
    beyond: dict[str, Any] = {"sensors": {"camera": "serial 7"}, "engine": "cpu", "map_max": None}
    beyond |= {name: changes.pop(name) for name in tuple(changes) if name in beyond}
    timings = {"acquired": 2.0, "inspected": 9.5}
    result = part_result(number, **{"timings_ms": timings, **changes})
    return Record(result=result, triggered_ns=10**9 * number, **beyond)


def a_rejected(number: int, reason: str = "score", **changes: Any) -> Record:
    """Return the row of a part that is NG."""
    return a_record(number, verdict="NG", reason=reason, message="No.", **{"score": 1.5, **changes})
