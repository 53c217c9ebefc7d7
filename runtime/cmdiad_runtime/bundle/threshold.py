"""The threshold between OK and NG: calibrated on good samples that did not build the bank, adjusted on the bundle.

The promise of a threshold and the evidence of one calibration differ. The *requested rate* holds on average over
calibrations; the *interval* contains the rate at this one threshold with 95 % confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.bundle.calibration import SCORE_LIMIT, Calibration, SessionScores
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.records import RecordError

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.bundle import Bundle

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
ORDER_STATISTIC = "interpolated order statistic"
SET_BY_HAND = "set by hand"
LEAST_COST = "least expected cost"
_EARLIER = ("order statistic", "Student prediction limit")
_MOST_WARNED = 3
_ROUNDING = 1e-9  # (19 + 1)·(1 - 0.05) must not count as more than 19

Interval = tuple[float, float]
Scores: TypeAlias = "Sequence[float] | npt.NDArray[np.number]"
"""Scores of held-out good samples, `[n]`."""


@dataclass(frozen=True)
class Threshold:
    """A threshold and the method that determined it.

    Attributes:
        value: Score above which a sample is NG.
        false_reject_rate: Requested share of rejected good parts; for a threshold set by hand, the share of held-out
            samples above it.
        samples: Number of held-out good samples.
        method: "interpolated order statistic" or "set by hand".
        warning: Reason why the number of samples does not support the rate, or "".
        interval: 95 % confidence interval of the share of good parts above `value`.
    """

    value: float
    false_reject_rate: float
    samples: int
    method: str
    warning: str
    interval: Interval


def calibrate(scores: Scores, peaks: Scores, false_reject_rate: float) -> Calibration:
    """Compute the thresholds of score and map for a false-reject rate.

    Args:
        scores: Image scores of held-out good samples.
        peaks: Largest map value of each sample.
        false_reject_rate: Share of good parts that may be rejected, in (0, 1).

    Returns:
        The thresholds with the samples they rest on.

    Raises:
        ValueError: There are fewer than 2 samples, values that are not finite, or a rate outside (0, 1).
    """
    threshold = calibrate_threshold(scores, false_reject_rate)
    return Calibration(
        score_threshold=threshold.value,
        map_threshold=calibrate_threshold(peaks, false_reject_rate).value,
        false_reject_rate=threshold.false_reject_rate,
        samples=threshold.samples,
        method=threshold.method,
        warning=threshold.warning,
        interval=threshold.interval,
        held_out_scores=tuple(map(float, scores)),
        held_out_peaks=tuple(map(float, peaks)),
    )


def calibrate_sessions(parts: Sequence[SessionScores], false_reject_rate: float) -> Calibration:
    """Compute the thresholds that keep the false-reject rate in every session.

    Each threshold is the largest of the sessions' thresholds. The interval is that of the session whose score
    threshold is the largest.

    Args:
        parts: Held-out scores of each session, at least one session.
        false_reject_rate: Share of good parts that may be rejected, in (0, 1).

    Raises:
        ValueError: See `calibrate`.
    """
    alone = [calibrate(part.scores, part.peaks, false_reject_rate) for part in parts]
    strictest = max(range(len(parts)), key=lambda i: alone[i].score_threshold)
    deciding, method, warning = alone[strictest], alone[strictest].method, alone[strictest].warning
    if len(parts) > 1:
        method = f"{method}, largest of {len(parts)} sessions ({parts[strictest].session.name})"
        warned = [f"session {p.session.name}: {c.warning}" for p, c in zip(parts, alone, strict=True) if c.warning]
        further = [f"and {len(warned) - _MOST_WARNED} further sessions"] if len(warned) > _MOST_WARNED else []
        warning = "; ".join([*warned[:_MOST_WARNED], *further])
    return replace(
        deciding,
        map_threshold=max(calibration.map_threshold for calibration in alone),
        samples=sum(len(part.scores) for part in parts),
        method=method,
        warning=warning,
        held_out_scores=tuple(float(score) for part in parts for score in part.scores),
        held_out_peaks=tuple(float(peak) for part in parts for peak in part.peaks),
        sessions=tuple(part.session for part in parts),
    )


def calibrate_threshold(scores: Scores, false_reject_rate: float) -> Threshold:
    """Compute the threshold that a new good part exceeds with at most the requested probability.

    With n scores, the k-th smallest is exceeded with probability 1 - k/(n+1), whatever the distribution (split
    conformal prediction, Vovk et al. 2005). The threshold is the order statistic k = (n+1)(1-r), interpolated between
    its neighbours. Interpolation never exceeds the rate if scores become rarer upwards, and exceeds the rate by at most
    1/(n+1) for any distribution. For rates below 1/(n+1) the threshold stays at the largest score, with a warning that
    states the rate which n scores support: a part that scores higher than every good part seen is never OK. A lower
    rate never lowers the threshold.

    Raises:
        ValueError: There are fewer than 2 scores, scores that are not finite, or a rate outside (0, 1).
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    n, rate = len(values), float(false_reject_rate)
    if n < 2:
        raise ValueError(f"a threshold needs at least 2 held-out good samples, got {n}")
    if not np.isfinite(values).all():
        raise ValueError("a threshold needs finite scores")
    _check_rate(rate)
    rank = min(_rank(n, rate), float(n))
    value, interval = _interpolated(values, rank), _interval_of_rank(rank, n)
    return Threshold(value, rate, n, ORDER_STATISTIC, too_few_samples(n, rate), interval)


def too_few_samples(n: int, false_reject_rate: float) -> str:
    """Return why a number of held-out good samples does not support a false-reject rate in (0, 1), or ""."""
    if _rank(n, false_reject_rate) <= n:
        return ""
    rate = false_reject_rate
    needed = "more than a million" if rate < 1e-6 else f"{math.ceil(1 / rate - _ROUNDING) - 1}"
    return (
        f"{n} held-out good samples; {needed} are needed to support a false-reject rate of {rate:g}. Until then "
        f"about {1 / (n + 1):.1%} of good parts are rejected"
    )


def _rank(n: int, rate: float) -> float:
    """Return the fractional rank (n+1)(1-r), at least 1, and an integer where only rounding keeps it from being one."""
    rank = (n + 1) * (1 - rate)
    nearest = float(round(rank))
    return max(1.0, nearest if abs(rank - nearest) < _ROUNDING else rank)


def _interpolated(values: npt.NDArray[np.float64], rank: float) -> float:
    """Return the order statistic of a fractional rank from 1 to n among sorted values."""
    below = int(rank)
    low, high = float(values[below - 1]), float(values[min(below, len(values) - 1)])
    return min(high, low + (rank - below) * (high - low))


def threshold_by_hand(value: float, held_out: Scores) -> Threshold:
    """Describe a threshold that was set by hand by means of held-out good samples.

    With x of n samples above the threshold, the interval is that of Clopper and Pearson (1934): the quantiles of
    Beta(x, n-x+1) and Beta(x+1, n-x).

    Args:
        value: Threshold, in (0, SCORE_LIMIT].
        held_out: Scores of held-out good samples; may be empty.

    Raises:
        ValueError: The value is not a positive number up to SCORE_LIMIT.
    """
    if not 0 < value <= SCORE_LIMIT:  # False for NaN
        raise ValueError(f"a threshold is a positive number up to {SCORE_LIMIT:g}, got {value:g}")
    n = len(held_out)
    if n == 0:
        warning = "without held-out scores the share of rejected good parts is unknown"
        return Threshold(float(value), 1.0, 0, SET_BY_HAND, warning, (0.0, 1.0))
    above = int((np.asarray(held_out) > value).sum())
    low = _beta_quantile(above, n - above + 1, TAILS[0]) if above else 0.0
    high = _beta_quantile(above + 1, n - above, TAILS[1]) if above < n else 1.0
    return Threshold(float(value), above / n, n, SET_BY_HAND, "", (low, high))


def is_rate_based(calibration: Calibration) -> bool:
    """Return True if the score threshold was computed for a false-reject rate."""
    return is_rate_method(calibration.method)


def is_rate_method(method: str) -> bool:
    """Return True for a method that computes a threshold for a false-reject rate."""
    return not method.startswith((SET_BY_HAND, LEAST_COST))


def is_earlier_method(method: str) -> bool:
    """Return True for a method of an earlier version, whose thresholds this version cannot recompute."""
    return method.startswith(_EARLIER)


def adjusted(
    bundle: Bundle,
    *,
    score: float | None = None,
    map_threshold: float | None = None,
    false_reject_rate: float | None = None,
) -> Bundle:
    """Return the bundle with another calibration. The files of the bundle are not changed.

    Args:
        bundle: Verified bundle.
        score: Raw score to use as the score threshold; None keeps the threshold.
        map_threshold: Raw map value to use as the map threshold; None keeps the threshold. If the map decides and both
            thresholds are equal, they stay equal.
        false_reject_rate: Rate in (0, 1) to recompute both thresholds for, from the held-out scores in the bundle.

    Raises:
        BundleError: A rate is requested and the bundle contains no usable held-out scores.
        ValueError: Both a rate and a threshold are passed, or a value is out of range.
    """
    if false_reject_rate is not None:
        if score is not None or map_threshold is not None:
            raise ValueError("pass a threshold or a false-reject rate, not both")
        return replace(bundle, calibration=_recalibrated(bundle, false_reject_rate))
    calibration = bundle.calibration
    if score is not None:
        drawn_as_decided = calibration.verdict == "map" and calibration.map_threshold == calibration.score_threshold
        calibration = _with_score(calibration, threshold_by_hand(score, calibration.held_out_scores))
        if drawn_as_decided and map_threshold is None:
            map_threshold = score
    if map_threshold is not None:
        calibration = replace(calibration, map_threshold=threshold_by_hand(map_threshold, ()).value)
    return replace(bundle, calibration=calibration)


def _recalibrated(bundle: Bundle, rate: float) -> Calibration:
    held_out = bundle.calibration
    if min(len(held_out.held_out_scores), len(held_out.held_out_peaks)) < 2:
        raise _unusable(bundle, "no held-out scores in its calibration")
    _check_rate(rate)
    try:
        calibration = calibrate_sessions(held_out.by_session, rate)
        calibration = replace(calibration, sessions=held_out.sessions, verdict=held_out.verdict)
    except RecordError as error:
        raise _unusable(bundle, f"held-out scores that allow no threshold ({error})") from error
    if min(calibration.score_threshold, calibration.map_threshold) <= 0:
        raise _unusable(bundle, "held-out scores whose threshold is not positive")
    return calibration


def _unusable(bundle: Bundle, problem: str) -> BundleError:
    return BundleError(
        bundle.path,
        found=problem,
        expected="scores of held-out good samples to compute a threshold from",
        action="pass the threshold as a raw score, or export the run again with this version of cmdiad",
    )


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise ValueError(f"a false-reject rate lies between 0 and 1, got {rate:g}")


def _with_score(calibration: Calibration, threshold: Threshold) -> Calibration:
    return replace(
        calibration,
        score_threshold=threshold.value,
        false_reject_rate=threshold.false_reject_rate,
        samples=threshold.samples,
        method=threshold.method,
        warning=threshold.warning,
        interval=threshold.interval,
    )


def _interval_of_rank(rank: float, n: int) -> Interval:
    """Return the interval of 1 - F(X₍ₖ₎), which is Beta(n+1-k, k) for any continuous F, also between two ranks k.

    Sources: David and Nagaraja 2003, section 2.3; Vovk 2012; for fractional ranks Hutson 1999.
    """
    low, high = (_beta_quantile(n + 1 - rank, rank, tail) for tail in TAILS)
    return low, high


def prediction_factor(n: int, rate: float) -> float:
    """Return the standard deviations from the mean to the limit that a further value exceeds with probability `rate`.

    This is t(1 - rate, n-1)·√(1 + 1/n) of a normal sample (Hahn & Meeker, "Statistical Intervals", 1991, section 4.4).

    Args:
        n: Number of values, at least 2.
        rate: Probability of a further value beyond the limit on one side.
    """
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - rate)) * math.sqrt(1 + 1 / n)


def _beta_quantile(a: float, b: float, probability: float) -> float:
    from scipy.special import betaincinv

    return float(betaincinv(a, b, probability))
