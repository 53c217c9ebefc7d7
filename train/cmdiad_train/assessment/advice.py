"""Advice on the choice of sensors from the figures of an assessment, with the reason and the uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_runtime.support.share_text import share_text
from cmdiad_train.assessment.candidates import BOTH, CAMERA, CLOUD
from cmdiad_train.assessment.defects import DEFECTS
from cmdiad_train.assessment.outcome import Difference, Outcome, Row

_GAIN = 0.1
"""A kind of defect is named as the gain of a sensor if the detected share grows by at least this."""
_MOST_REJECTED = 2.0
"""Multiple of the requested false-reject rate above which the figures of a row deserve a warning."""


@dataclass(frozen=True)
class Advice:
    """The advice of an assessment.

    Attributes:
        sentence: Advice with its reason.
        certainty: A line for each comparison behind the advice, with its interval.
    """

    sentence: str
    certainty: tuple[str, ...]


def advise(outcome: Outcome, *, false_reject_rate: float) -> Advice:
    """Return the advice that follows from the detected shares.

    Args:
        outcome: Figures of all detectors.
        false_reject_rate: Requested share of rejected good parts.
    """
    singles = [row for row in outcome.rows if row.name != BOTH]
    best = max(singles, key=lambda row: row.share)
    both = outcome.difference(BOTH, best.name)
    comparisons = [both, *_hallucinations(outcome), outcome.difference(CAMERA, CLOUD)]
    lines = [_compared(difference) for difference in comparisons]
    lines += [
        f"{row.name}: {row.rejected} of {outcome.good} good samples are rejected, more than the requested "
        f"{share_text(false_reject_rate)}; in operation a higher threshold would find fewer defects."
        for row in outcome.rows
        if row.rejected > _MOST_REJECTED * false_reject_rate * outcome.good + 1
    ]
    return Advice(_sentence(outcome.row(BOTH), best, both), tuple(lines))


def _sentence(both: Row, best: Row, difference: Difference) -> str:
    compared = f"{best.name} alone detects {share_text(best.share)} of the tampered samples, both sensors "
    compared += share_text(both.share)
    if not difference.is_distinguishable:
        return f"{_start(compared)}, which is not distinguishable: these samples give no reason for a second sensor."
    if difference.value < 0:
        return f"{_start(compared)}: inspect with {best.name}."
    other = "camera" if best.name.startswith(CLOUD) else "3D sensor"
    gains = {kind: both.detected[kind] - best.detected[kind] for kind in DEFECTS}
    named = [
        f"{kind} ({share_text(best.detected[kind])} to {share_text(both.detected[kind])})"
        for kind in sorted(gains, key=lambda kind: -gains[kind])
        if gains[kind] >= _GAIN
    ]
    added = f", above all {', '.join(named)}" if named else ""
    return f"{_start(compared)}: a {other} adds to {best.name}{added}."


def _hallucinations(outcome: Outcome) -> list[Difference]:
    names = [row.name for row in outcome.rows]
    return [
        outcome.difference(name, plain)
        for plain in (CAMERA, CLOUD)
        for name in names
        if name.startswith(f"{plain} with")
    ]


def _compared(difference: Difference) -> str:
    low, high = (100 * end for end in difference.interval)
    verdict = "" if difference.is_distinguishable else ": not distinguishable"
    return (
        f"{difference.first} against {difference.second}: {100 * difference.value:+.1f} percentage points "
        f"(95 % interval {low:+.1f} to {high:+.1f}){verdict}."
    )


def _start(text: str) -> str:
    return text[0].upper() + text[1:]
