"""Frame slots that the records process reads pictures from. They are freed when it answers."""

from __future__ import annotations

from collections import Counter


class PictureSlots:
    """Slots that wait for the answer of the records process."""

    def __init__(self) -> None:
        self._slots: set[int] = set()
        self._stale: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._slots)

    def keep(self, slot: int) -> None:
        """Add a slot."""
        self._slots.add(slot)

    def done(self, slot: int) -> bool:
        """Note an answer; return True if the slot must be freed now."""
        if self._stale[slot] > 0:
            self._stale[slot] -= 1
            return False
        present = slot in self._slots
        self._slots.discard(slot)
        return present

    def acquisition_ended(self) -> None:
        """Forget all slots, because the new process has other frames in them. Their answers still come."""
        self._stale.update(self._slots)
        self._slots.clear()

    def records_ended(self) -> list[int]:
        """Forget all slots and return those that must be freed. Their answers never come."""
        slots = sorted(self._slots)
        self._slots.clear()
        self._stale.clear()
        return slots
