"""The rule that decides which pictures are kept."""

from __future__ import annotations

from cmdiad_line.station_file.pictures import Pictures
from cmdiad_line.transport.messages import Result


class PictureRule:
    """The rule for one part after another. It counts the OK parts for "one in N".

    Args:
        section: Section `[pictures]` of the station file.
    """

    def __init__(self, section: Pictures) -> None:
        self._section = section
        self._passed = 0

    def keeps(self, result: Result) -> bool:
        """Return True if the pictures of a part are kept. Call once per part."""
        if result.verdict != "OK":
            return self._section.ng
        if is_near(result.score, result.threshold, self._section.near_share):
            return True
        self._passed += 1
        return self._section.one_in > 0 and self._passed % self._section.one_in == 0


def is_near(score: float | None, threshold: float | None, share: float) -> bool:
    """Return True if a score is within a share of the threshold, below or above; False without a score."""
    if score is None or threshold is None or share <= 0:
        return False
    return abs(score - threshold) <= share * abs(threshold)
