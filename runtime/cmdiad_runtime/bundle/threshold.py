"""The threshold between OK and NG: calibrated on good samples that did not build the bank, adjusted on the bundle.

What a threshold promises and what a calibration has shown are two things. The *rate asked for* holds on average over
calibrations; the *interval* tells where the rate at this one threshold lies, with 95 % confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cmdiad_runtime.bundle.manifest import Bundle, Calibration
from cmdiad_runtime.errors import BundleError

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
ORDER_STATISTIC = "order statistic"
PREDICTION_LIMIT = "Student prediction limit"
SET_BY_HAND = "set by hand"
_ROUNDING = 1e-9  # (19 + 1)·(1 - 0.05) must not count as more than 19

Interval = tuple[float, float]


@dataclass(frozen=True)
class Threshold:
    """A threshold and how it was found.

    Attributes:
        value: scores above it are NG.
        false_reject_rate: the share of good parts that was asked for; that of the held-out ones for one set by hand.
        samples: number of held-out good samples.
        method: "order statistic", "Student prediction limit" where the samples are too few for the first, or
            "set by hand".
        warning: what the number of samples does not support, or "".
        interval: 95 % confidence interval of the share of good parts above `value`.
    """

    value: float
    false_reject_rate: float
    samples: int
    method: str
    warning: str
    interval: Interval


def calibrate(scores: Sequence[float], peaks: Sequence[float], false_reject_rate: float) -> Calibration:
    """Thresholds of score and map for a rate, with what they rest on.

    Args:
        scores: image scores of held-out good samples.
        peaks: the largest map value of each.
        false_reject_rate: share of good parts that may be rejected, in (0, 1).

    Raises:
        ValueError: fewer than 2 samples, values that are not finite, or a rate outside (0, 1).
    """
    found = calibrate_threshold(scores, false_reject_rate)
    return Calibration(
        score_threshold=found.value,
        map_threshold=calibrate_threshold(peaks, false_reject_rate).value,
        false_reject_rate=found.false_reject_rate,
        samples=found.samples,
        method=found.method,
        warning=found.warning,
        interval=found.interval,
        held_out_scores=tuple(map(float, scores)),
        held_out_peaks=tuple(map(float, peaks)),
    )


def calibrate_threshold(scores: Sequence[float], false_reject_rate: float) -> Threshold:
    """The threshold that a new good part exceeds with at most the given probability.

    With n scores and ⌈(n+1)(1-r)⌉ ≤ n that order statistic holds for any distribution (split conformal
    prediction, Vovk et al. 2005). With fewer, the upper prediction limit of a normal sample is used,
    mean + t(1-r, n-1)·s·√(1 + 1/n), and said so.

    Raises:
        ValueError: fewer than 2 scores, scores that are not finite, or a rate outside (0, 1).
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    n, rate = len(values), float(false_reject_rate)
    if n < 2:
        raise ValueError(f"a threshold needs at least 2 held-out good samples, got {n}")
    if not np.isfinite(values).all():
        raise ValueError("a threshold needs finite scores")
    if not 0 < rate < 1:
        raise ValueError(f"a false-reject rate lies between 0 and 1, got {rate:g}")
    rank = math.ceil((n + 1) * (1 - rate) - _ROUNDING)
    if rank <= n:
        return Threshold(float(values[rank - 1]), rate, n, ORDER_STATISTIC, "", _interval_of_rank(rank, n))
    factor = _prediction_factor(n, rate)
    needed = math.ceil(1 / rate - _ROUNDING) - 1
    warning = f"{n} held-out good samples; {needed} are needed to support a false-reject rate of {rate:g}"
    value = float(values.mean() + factor * values.std(ddof=1))
    return Threshold(value, rate, n, PREDICTION_LIMIT, warning, _interval_of_factor(factor, n))


def threshold_by_hand(value: float, held_out: Sequence[float]) -> Threshold:
    """A threshold that somebody chose, and what held-out good samples say about it.

    With x of n above it, the interval is Clopper and Pearson's (1934): Beta(x, n-x+1) and Beta(x+1, n-x) quantiles.

    Raises:
        ValueError: the value is not a positive number.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"a threshold is a positive number, got {value:g}")
    n = len(held_out)
    if n == 0:
        warning = "no held-out scores tell how many good parts it rejects"
        return Threshold(float(value), 1.0, 0, SET_BY_HAND, warning, (0.0, 1.0))
    above = int((np.asarray(held_out) > value).sum())
    low = _beta_quantile(above, n - above + 1, TAILS[0]) if above else 0.0
    high = _beta_quantile(above + 1, n - above, TAILS[1]) if above < n else 1.0
    return Threshold(float(value), above / n, n, SET_BY_HAND, "", (low, high))


def adjusted(
    bundle: Bundle,
    *,
    score: float | None = None,
    map_threshold: float | None = None,
    false_reject_rate: float | None = None,
) -> Bundle:
    """The bundle with another calibration; its files stay as they are.

    Args:
        bundle: an open bundle.
        score: a raw score as the threshold; the map threshold stays unless it is given.
        map_threshold: a raw map value.
        false_reject_rate: recompute both thresholds from the held-out scores in the bundle.

    Raises:
        BundleError: a rate is asked for and the bundle holds no held-out scores.
        ValueError: both a rate and a threshold, or a value outside its range.
    """
    if false_reject_rate is not None:
        if score is not None or map_threshold is not None:
            raise ValueError("give a threshold or a false-reject rate, not both")
        return replace(bundle, calibration=_recalibrated(bundle, false_reject_rate))
    calibration = bundle.calibration
    if score is not None:
        calibration = _with_score(calibration, threshold_by_hand(score, calibration.held_out_scores))
    if map_threshold is not None:
        calibration = replace(calibration, map_threshold=threshold_by_hand(map_threshold, ()).value)
    return replace(bundle, calibration=calibration)


def _recalibrated(bundle: Bundle, rate: float) -> Calibration:
    held_out = bundle.calibration
    if min(len(held_out.held_out_scores), len(held_out.held_out_peaks)) < 2:
        raise BundleError(
            bundle.path,
            found="no held-out scores in its calibration",
            expected="those that a false-reject rate is computed from",
            action="give the threshold as a raw score, or export the run again with this version of cmdiad",
        )
    return calibrate(held_out.held_out_scores, held_out.held_out_peaks, rate)


def _with_score(calibration: Calibration, found: Threshold) -> Calibration:
    return replace(
        calibration,
        score_threshold=found.value,
        false_reject_rate=found.false_reject_rate,
        samples=found.samples,
        method=found.method,
        warning=found.warning,
        interval=found.interval,
    )


def _interval_of_rank(rank: int, n: int) -> Interval:
    """Of 1 - F(X₍ₖ₎), which is Beta(n+1-k, k) for any continuous F (David and Nagaraja 2003, §2.3; Vovk 2012)."""
    low, high = (_beta_quantile(n + 1 - rank, rank, tail) for tail in TAILS)
    return low, high


def _prediction_factor(n: int, rate: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - rate)) * math.sqrt(1 + 1 / n)


def _interval_of_factor(factor: float, n: int) -> Interval:
    """Of the share of a normal distribution above x̄ + q·s, from a sample of n.

    That share is at most α where a noncentral t with n-1 degrees of freedom and noncentrality √n·z(1-α) is at most
    q·√n: the one-sided tolerance limit (Krishnamoorthy and Mathew 2009, §2.2), solved for α.
    """
    from scipy.special import nctdtrinc, ndtr

    low, high = (float(ndtr(-nctdtrinc(n - 1, tail, factor * math.sqrt(n)) / math.sqrt(n))) for tail in TAILS)
    return low, high


def _beta_quantile(a: float, b: float, probability: float) -> float:
    from scipy.special import betaincinv

    return float(betaincinv(a, b, probability))
