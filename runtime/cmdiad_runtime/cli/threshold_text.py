"""Text about a threshold for `cmdiad-train`, `cmdiad-export`, `cmdiad-run` and `cmdiad-threshold`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.output import say

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.calibration import Calibration
    from cmdiad_runtime.bundle.tradeoff import Tradeoff, Verdicts

FAR_ABOVE = 2.0
"""A threshold above this multiple of the largest held-out score has a warning: no good sample comes near."""
_MOST_ROWS = 12
_IN_USE = "<- in use"


def report_threshold(calibration: Calibration, remedy: str, *following: str, further: Sequence[str] = ()) -> None:
    """Print a threshold, the warnings about it and the next commands to stderr, so that stdout has results alone.

    Args:
        calibration: Calibration in use.
        remedy: Command that adds good parts of another session.
        following: Next commands to give.
        further: Further warnings.
    """
    say(threshold_line(calibration))
    for warning in [*warnings_about(calibration, remedy), *map(printable, further)]:
        say(f"warning: {warning}")
    for i, command in enumerate(following):
        say(f"{'      ' if i else 'next: '}{command}")


def threshold_line(calibration: Calibration) -> str:
    """Return one line with threshold, requested rate, number of held-out samples and interval."""
    from cmdiad_runtime.bundle.threshold import is_rate_based

    low, high = calibration.interval
    rate, score, samples = calibration.false_reject_rate, calibration.score_threshold, calibration.samples
    interval = f"95 % interval of the share of good parts above: {low:.1%} to {high:.1%}"
    if is_rate_based(calibration):
        return (
            f"threshold: {score:.6g} for a false-reject rate of {rate:g}, {samples} held-out good samples; {interval}"
        )
    above = f"{rate:.1%} of {samples} held-out good samples above; {interval}" if samples else "no held-out scores"
    return f"threshold: {score:.6g}, {printable(calibration.method)}; {above}"


def warnings_about(calibration: Calibration, remedy: str) -> Iterator[str]:
    """Yield the reasons why a threshold may reject more good parts than requested, or let defects pass.

    Args:
        calibration: Calibration in use.
        remedy: Command that adds good parts of another session.
    """
    yield from doubts_about(calibration)
    if len(calibration.sessions) < 2:
        yield (
            "all held-out good samples are of the training data. Good parts of another day may score higher. "
            f"To add good parts of another day: {remedy}"
        )


def doubts_about(calibration: Calibration) -> Iterator[str]:
    """Yield the reasons against a threshold that its calibration itself contains."""
    from cmdiad_runtime.bundle.threshold import is_earlier_method, is_rate_based

    score, held_out = calibration.score_threshold, calibration.held_out_scores
    if held_out and score > FAR_ABOVE * max(held_out):
        yield (
            f"the threshold {score:.6g} is more than {FAR_ABOVE:g} times the largest held-out score of a good sample "
            f"({max(held_out):.6g}). Defects with scores up to the threshold pass"
        )
    if not held_out and is_rate_based(calibration):
        yield "the held-out scores are not recorded, so threshold, rate and number of samples cannot be verified"
    if held_out and is_earlier_method(calibration.method):
        yield (
            f"the threshold was computed by a method of an earlier version ({printable(calibration.method)}) and "
            "cannot be verified"
        )
    if calibration.warning:
        yield printable(calibration.warning)


def in_shell(path: str | PathLike[str]) -> str:
    """Return a path as a word of a shell command."""
    return shlex.quote(printable(path))


def session_lines(calibration: Calibration) -> dict[str, str]:
    """Return for each session the number of samples above the threshold; empty for the training data alone."""
    from cmdiad_runtime.bundle.threshold import threshold_by_hand

    lines = {}
    for part in calibration.by_session if len(calibration.sessions) > 1 else ():
        alone = threshold_by_hand(calibration.score_threshold, part.scores)
        above, (low, high) = sum(score > calibration.score_threshold for score in part.scores), alone.interval
        share = f"{above} of {len(part.scores)} held-out samples above the threshold"
        name = f"session {printable(part.session.name)}"
        lines[name] = f"{share}; 95 % interval {low:.1%} to {high:.1%} of good parts"
    return lines


def tradeoff_table(tradeoff: Tradeoff, threshold: float) -> Iterator[str]:
    """Yield the rows of a table of rejected good and missed bad parts by threshold.

    The table has the thresholds at which no other is better in one count and no worse in the other, at most twelve of
    them, and the threshold in use.

    Args:
        tradeoff: Scores of good and bad parts.
        threshold: Threshold in use.
    """
    best = tradeoff.best()
    step = (len(best) - 1) / (_MOST_ROWS - 1)
    shown = best if len(best) <= _MOST_ROWS else [best[round(i * step)] for i in range(_MOST_ROWS)]
    in_use = tradeoff.at(threshold)
    others = [v for v in shown if (v.rejected, v.missed) != (in_use.rejected, in_use.missed)]
    rows = sorted([*others, in_use], key=lambda verdicts: verdicts.threshold)
    sessions = len(tradeoff.names) > 1
    header = ("threshold", "good rejected", *(["most in a session"] if sessions else []), "bad missed", "")
    cells = [header, *(_cells(tradeoff, verdicts, threshold) for verdicts in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(shown) < len(best):
        yield f"{len(shown)} of {len(best)} useful thresholds."


def _cells(tradeoff: Tradeoff, verdicts: Verdicts, threshold: float) -> tuple[str, ...]:
    shares = [(n / len(scores), n, len(scores)) for n, scores in zip(verdicts.rejected, tradeoff.good, strict=True)]
    worst = max(range(len(shares)), key=lambda i: shares[i][0])
    most = f"{_share(*shares[worst][1:])} {printable(tradeoff.names[worst])}"
    return (
        f"{verdicts.threshold:.6g}",
        _share(sum(verdicts.rejected), sum(map(len, tradeoff.good))),
        *([most] if len(shares) > 1 else []),
        _share(verdicts.missed, len(tradeoff.bad)),
        _IN_USE if verdicts.threshold == threshold else "",
    )


def _share(count: int, total: int) -> str:
    return f"{count} of {total} ({count / total:.1%})"
