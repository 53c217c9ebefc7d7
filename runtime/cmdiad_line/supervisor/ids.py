"""Acquisition ids, which the records process reserves durably in blocks."""

from __future__ import annotations

from collections import deque

from cmdiad_line.transport.messages import Opened

RESERVE_BELOW = 500
"""More ids are reserved as soon as fewer are left."""


class NoIdsError(RuntimeError):
    """No acquisition id is left. A trigger cannot be answered, so the station must end."""


class Ids:
    """Ids that were reserved and not used.

    Attributes:
        reserving: True while more ids are being reserved.
    """

    def __init__(self) -> None:
        self.reserving = False
        self._blocks: deque[range] = deque()
        self._last = 0

    def add(self, opened: Opened) -> None:
        """Add a block. An id is never used twice, whatever the records process says."""
        first = max(opened.next_id, self._last + 1)
        self._blocks.append(range(first, opened.reserved + 1))
        self._last = max(opened.reserved, self._last)
        self.reserving = False

    def take(self) -> int:
        """Return the next id.

        Raises:
            NoIdsError: There is none.
        """
        while self._blocks and not self._blocks[0]:
            self._blocks.popleft()
        if not self._blocks:
            raise NoIdsError("no acquisition id is left")
        block = self._blocks[0]
        self._blocks[0] = block[1:]
        return block[0]

    @property
    def are_few(self) -> bool:
        """Return True if more ids should be reserved."""
        return not self.reserving and sum(map(len, self._blocks)) < RESERVE_BELOW
