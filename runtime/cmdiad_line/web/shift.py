"""Counters of the present shift. They start with the recorded numbers and then count every new result."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, time, timedelta, timezone

from cmdiad_line.transport.messages import Result


def shift_start(now: datetime, starts: tuple[str, ...]) -> datetime:
    """Return the beginning of the shift that a moment belongs to.

    Args:
        now: Moment with a time zone.
        starts: Beginnings of the shifts as "hh:mm", in the zone of `now`.
    """
    moments = [
        datetime.combine(now.date() - timedelta(days=days), time.fromisoformat(start), now.tzinfo)
        for days in (0, 1)
        for start in starts
    ]
    return max(moment for moment in moments if moment <= now)


class ShiftCounter:
    """Numbers of results since the shift began.

    Args:
        starts: Beginnings of the shifts as "hh:mm" in local time.
        now: Clock that returns the present local time; None for that of the machine.
    """

    def __init__(self, starts: tuple[str, ...], now: Callable[[], datetime] | None = None) -> None:
        self._starts = starts
        self._now = now or (lambda: datetime.now().astimezone())
        self._began = shift_start(self._now(), starts)
        self._numbers = {"ok": 0, "ng": 0}
        self._last_id = 0

    @property
    def began(self) -> str:
        """Beginning of the present shift in UTC, ISO 8601."""
        return self._began.astimezone(timezone.utc).isoformat(timespec="milliseconds")

    def seed(self, *, ok: int, ng: int, last_id: int) -> None:
        """Add the recorded numbers of this shift; call once, before the first result.

        Args:
            ok: Number of OK parts.
            ng: Number of NG parts.
            last_id: Largest recorded acquisition id. Results up to this id are not counted again.
        """
        self._numbers["ok"] += ok
        self._numbers["ng"] += ng
        self._last_id = last_id

    def count(self, result: Result) -> None:
        """Count a result."""
        if result.acquisition_id <= self._last_id:
            return
        self._turn()
        self._numbers["ok" if result.verdict == "OK" else "ng"] += 1

    def numbers(self) -> dict[str, int]:
        """Return the numbers "ok" and "ng" of the present shift."""
        self._turn()
        return dict(self._numbers)

    def _turn(self) -> None:
        """Reset the numbers when a new shift has begun. A clock that was set back does not begin a shift."""
        began = shift_start(self._now(), self._starts)
        if began > self._began:
            self._began, self._numbers = began, {"ok": 0, "ng": 0}
