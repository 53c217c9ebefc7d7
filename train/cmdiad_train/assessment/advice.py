"""Advice on the choice of sensors from the figures of an assessment, with the reason and the uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Advice on the choice of sensors, and the comparisons that support it.

    Attributes:
        sentence: Advice with its reason.
        certainty: A line for each comparison, with its interval, and for each detector that rejects too many good
            samples.
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
    most = _MOST_REJECTED * false_reject_rate * outcome.good + 1
    too_strict = [row for row in outcome.rows if row.rejected > most]
    lines += [
        f"{row.name}: {row.rejected} of {outcome.good} good samples are rejected, more than the requested "
        f"{share_text(false_reject_rate)}; in operation a higher threshold would find fewer defects."
        for row in too_strict
    ]
    doubtful = [row.name for row in too_strict if row.name in (best.name, BOTH)]
    return Advice(_sentence(outcome.row(BOTH), best, both, doubtful), tuple(lines))


def _sentence(both: Row, best: Row, difference: Difference, doubtful: Sequence[str]) -> str:
    """Return the advice. A detector that rejects everything detects everything, so doubtful detectors give none."""
    compared = f"{best.name[0].upper()}{best.name[1:]} alone detects {share_text(best.share)} of the tampered samples, "
    compared += f"both sensors {share_text(both.share)}"
    if doubtful:
        return f"{compared}. No advice: too many good samples are rejected with {' and with '.join(doubtful)}."
    if not difference.is_distinguishable:
        return f"{compared}, which is not distinguishable: these samples give no reason for a second sensor."
    if difference.value < 0:
        return f"{compared}: inspect with {best.name}."
    other = "camera" if best.name.startswith(CLOUD) else "3D sensor"
    gains = {kind: both.detected[kind] - best.detected[kind] for kind in DEFECTS}
    named = [
        f"{kind} ({share_text(best.detected[kind])} to {share_text(both.detected[kind])})"
        for kind in sorted(gains, key=lambda kind: -gains[kind])
        if gains[kind] >= _GAIN
    ]
    added = f", above all {', '.join(named)}" if named else ""
    return f"{compared}: a {other} adds to {best.name}{added}."


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
