"""Counters per shift: they begin at the shift, turn with the shift, and count every part once."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from cmdiad_line.web.shift import ShiftCounter, shift_start
from web_doubles import make_result

STARTS = ("06:00", "14:00", "22:00")


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("now", "start"),
    [
        (at(26, 6), at(26, 6)),
        (at(26, 5, 59), at(25, 22)),
        (at(26, 13, 59), at(26, 6)),
        (at(26, 23), at(26, 22)),
        (at(26, 0), at(25, 22)),
    ],
)
def test_the_beginning_of_a_shift(now: datetime, start: datetime) -> None:
    assert shift_start(now, STARTS) == start


def test_counters_turn_with_the_shift_and_not_with_a_clock_that_is_set_back() -> None:
    now = at(26, 13, 50)
    counter = ShiftCounter(STARTS, lambda: now)
    counter.count(make_result(1))
    counter.count(make_result(2, "NG", "score"))
    now = at(26, 5)
    assert counter.numbers() == {"ok": 1, "ng": 1}
    now = at(26, 14)
    assert counter.numbers() == {"ok": 0, "ng": 0}
    counter.count(make_result(3))
    assert counter.numbers() == {"ok": 1, "ng": 0}
    assert counter.began == "2026-11-26T14:00:00.000+00:00"


def test_recorded_parts_are_counted_once() -> None:
    counter = ShiftCounter(STARTS, lambda: at(26, 10))
    counter.seed(ok=5, ng=2, last_id=7)
    for number in (6, 7, 8):
        counter.count(make_result(number))
    assert counter.numbers() == {"ok": 6, "ng": 2}
