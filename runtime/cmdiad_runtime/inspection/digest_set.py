"""A set of texts that needs eight bytes for each, for results of millions of files."""

from __future__ import annotations

from array import array
from bisect import bisect_left

import numpy as np

_MOST_RECENT = 1 << 15
"""Number of recent digests that are kept in a set before they are merged into the sorted array."""


class DigestSet:
    """A set of texts by their 64-bit hash in this process.

    A text that was not added is taken for a member with a probability of the number of members over 2⁶⁴, which is
    below 10⁻¹³ for a million.
    """

    def __init__(self) -> None:
        self._sorted = array("q")
        self._recent: set[int] = set()

    def __contains__(self, text: str) -> bool:
        digest = hash(text)
        if digest in self._recent:
            return True
        place = bisect_left(self._sorted, digest)
        return place < len(self._sorted) and self._sorted[place] == digest

    def add(self, text: str) -> None:
        """Add a text."""
        self._recent.add(hash(text))
        if len(self._recent) >= _MOST_RECENT:
            recent = np.fromiter(self._recent, dtype=np.int64, count=len(self._recent))
            merged = np.union1d(np.frombuffer(self._sorted, dtype=np.int64), recent)
            self._sorted, self._recent = array("q", merged.tobytes()), set()
