"""Restarts of one process in the last minute, to give up on a process that ends again and again."""

from __future__ import annotations

from collections import deque

MINUTE_NS = 60 * 10**9


class RestartBudget:
    """Restarts of one process.

    Args:
        per_minute: Largest number of restarts in a minute.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._times: deque[int] = deque()

    def spend(self, now_ns: int) -> bool:
        """Note a restart; return False if there were too many."""
        while self._times and now_ns - self._times[0] >= MINUTE_NS:
            self._times.popleft()
        self._times.append(now_ns)
        return len(self._times) <= self._per_minute

    def clear(self) -> None:
        """Forget all restarts."""
        self._times.clear()
