"""Rows on their way to the records process. Rows wait here while that process is restarted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from cmdiad_line.transport.messages import Correct, Record

WINDOW = 64
"""Largest number of rows without an answer. The link holds more, so that it is never full."""
LONGEST_BACKLOG = 4096
"""Largest number of rows that wait. The oldest is dropped and counted beyond that."""


@dataclass
class Rows:
    """Rows that are not known to be on the disk, in order.

    Attributes:
        lost: Number of rows that were dropped because too many waited.
    """

    lost: int = 0
    _open: bool = False
    _waiting: deque[Record | Correct] = field(default_factory=deque)
    _sent: dict[int, Record] = field(default_factory=dict)
    _corrections: deque[Correct] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, record: Record) -> None:
        """Add a row. A row with the verdict OK passes the others, because the part waits for it."""
        if record.result.verdict == "OK":
            self._waiting.appendleft(record)
            return
        self._waiting.append(record)
        if len(self._waiting) > LONGEST_BACKLOG:
            self._waiting.popleft()
            self.lost += 1

    def correct(self, correction: Correct) -> None:
        """Add the correction of a row that was sent before."""
        self._waiting.append(correction)

    def answered(self, acquisition_id: int) -> Record | None:
        """Return the row that was answered, or None if no such row was sent."""
        return self._sent.pop(acquisition_id, None)

    def withdraw(self, acquisition_id: int) -> bool:
        """Remove an OK row that was not sent yet; return False if it was sent."""
        for row in self._waiting:
            if isinstance(row, Record) and row.result.acquisition_id == acquisition_id and row.result.verdict == "OK":
                self._waiting.remove(row)
                return True
        return False

    def opened(self) -> None:
        """Begin to send, because the records process is ready. Corrections are sent again, as they have no answer."""
        self._open = True
        self._waiting.extend(self._corrections)
        self._corrections.clear()

    def closed(self) -> list[Record]:
        """Stop sending, because the records process has ended. Rows with NG without an answer are sent again later.

        Return the rows with OK that have no answer. They may be on the disk or not, so they are not sent again. The
        parts become NG, and the caller adds a row and a correction for each.
        """
        self._open = False
        again = [record for record in self._sent.values() if record.result.verdict == "NG"]
        doubtful = [record for record in self._sent.values() if record.result.verdict == "OK"]
        self._waiting.extendleft(reversed(again))
        self._sent.clear()
        return doubtful

    def take(self) -> list[Record | Correct]:
        """Return the rows and corrections to send now, oldest first."""
        taken: list[Record | Correct] = []
        while self._open and self._waiting and len(self._sent) < WINDOW:
            row = self._waiting.popleft()
            if isinstance(row, Record):
                self._sent[row.result.acquisition_id] = row
            else:
                self._corrections.append(row)
            taken.append(row)
        return taken
