"""A set of texts that needs eight bytes for each, for results of millions of files."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_MOST_RECENT = 1 << 15
"""Number of recent digests that are kept in a set before they are merged into the sorted array."""


class DigestSet:
    """A set of texts by their 64-bit digest.

    A text that was not added is taken for a member with a probability of the number of members over 2⁶⁴, which is
    below 10⁻¹³ for a million.
    """

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._recent: set[int] = set()

    def __contains__(self, text: str) -> bool:
        digest = _digest(text)
        if digest in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(digest)))
        return place < len(self._sorted) and int(self._sorted[place]) == digest

    def add(self, text: str) -> None:
        """Add a text."""
        self._recent.add(_digest(text))
        if len(self._recent) >= _MOST_RECENT:
            recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            self._sorted = np.union1d(self._sorted, recent)
            self._recent = set()


def _digest(text: str) -> int:
    content = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
