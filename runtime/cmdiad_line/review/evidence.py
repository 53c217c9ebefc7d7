"""Evidence of the production about a detector: the scores of its good parts.

The scores of a candidate are those of **all** good parts of the production: the accepted ones, and the rejected ones
that a person judged good. Parts that were judged good would be no fair sample alone, because the review shows the parts
with the highest scores.

NG parts that nobody has judged are left out. This can only lower the threshold of a candidate, never raise it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cmdiad_line.reasons import STATION_REASONS
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.stored import Selection, StoredResult
from cmdiad_runtime.names import Verdict as VerdictKind

MOST_PARTS = 5000
"""Largest number of good parts of a candidate, the newest ones: their scores are stored in the bundle."""
_PAGE = 500


@dataclass(frozen=True)
class Evidence:
    """Good parts of one detector, and the numbers of parts that were left out.

    Attributes:
        good: Good parts with scores that count, newest first.
        judged_good: Parts among them that a person judged good.
        unjudged: Number of NG parts that nobody has judged good or defective.
        left_out: Number of parts that were judged good and are NG at every threshold, by reason.
    """

    good: tuple[StoredResult, ...]
    judged_good: tuple[StoredResult, ...]
    unjudged: int
    left_out: dict[str, int]

    def lines(self) -> Iterator[str]:
        """Yield lines for people."""
        accepted = len(self.good) - len(self.judged_good)
        yield f"Good parts of the production: {accepted} accepted, {len(self.judged_good)} judged good."
        if self.unjudged:
            yield f"NG parts that nobody has judged good or defective, and that are left out: {self.unjudged}."
        if self.left_out:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.left_out.items())
            yield f"Left out although judged good, because they are NG at every threshold: {reasons}."


def collect_evidence(records: RecordReader, selection: Selection, verdict: VerdictKind) -> Evidence:
    """Return the evidence about one bundle.

    Args:
        records: Records of the station.
        selection: Parts of one bundle, by `bundle_digest`, and a span of time.
        verdict: Score that decides, "map" or "image". With "image", parts without a stored map value do not count.
    """
    good: list[StoredResult] = []
    judged: list[StoredResult] = []
    unjudged, left_out = 0, Counter[str]()
    for result in newest(records, selection):
        if len(good) >= MOST_PARTS:
            break
        kind = _kind(result, verdict)
        if kind == "good":
            good.append(result)
            judged += [result] if result.judgement == "good" else []
        elif kind == "unjudged":
            unjudged += 1
        elif kind == "left out":
            left_out[result.reason] += 1
    return Evidence(tuple(good), tuple(judged), unjudged, dict(left_out.most_common()))


def peak_of(result: StoredResult, verdict: VerdictKind) -> float | None:
    """Return the largest map value of a part, or None if it is not known. If the map decides, it is the score."""
    return result.score if verdict == "map" else result.map_max


def newest(records: RecordReader, selection: Selection) -> Iterator[StoredResult]:
    """Yield the parts of a selection, newest first, page by page."""
    while page := records.select(selection, limit=_PAGE):
        yield from page
        selection = replace(selection, before_id=page[-1].acquisition_id)


def was_judged_by_detector(result: StoredResult) -> bool:
    """Return True if the detector inspected the part, and its verdict was the published one."""
    return result.score is not None and result.threshold is not None and result.reason not in STATION_REASONS


def _kind(result: StoredResult, verdict: VerdictKind) -> str:
    """Return "good", "unjudged", "left out", or "" for a part that does not count."""
    if result.score is None or peak_of(result, verdict) is None or result.judgement == "defect":
        return ""
    if result.judgement == "good":
        scored = result.reason in ("", "score") or result.reason in STATION_REASONS
        return "good" if scored else "left out"
    if result.verdict == "OK":
        return "" if result.override == "NG" or result.judgement == "unsure" else "good"
    return "unjudged" if was_judged_by_detector(result) else ""
