"""The threshold keeps its promise on good parts that it has not seen, and says how well it can."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.threshold import calibrate, calibrate_threshold, threshold_by_hand
from helpers import python

REPEATS = 2000
METHOD = "interpolated order statistic"


def tolerance(share: float, repeats: int = REPEATS) -> float:
    """Four standard errors of a share seen in independent repeats."""
    return 4 * math.sqrt(share * (1 - share) / repeats)


@pytest.mark.parametrize(
    ("n", "rate", "rank"),
    [(19, 0.05, 19), (20, 0.05, 19.95), (39, 0.05, 38), (46, 0.05, 44.65), (9, 0.1, 9), (9, 0.5, 5), (9, 0.95, 1)],
)
def test_order_statistic_is_interpolated(n: int, rate: float, rank: float) -> None:
    scores = np.random.default_rng(0).permutation(n) + 1.0
    threshold = calibrate_threshold(scores.tolist(), rate)
    assert threshold.value == pytest.approx(rank)
    assert (threshold.method, threshold.samples, threshold.warning) == (METHOD, n, "")
    assert threshold.false_reject_rate == rate


@pytest.mark.parametrize(("n", "rate"), [(2, 0.1), (6, 0.05), (12, 0.01), (46, 0.01), (98, 0.01)])
def test_threshold_is_never_above_the_largest_score(n: int, rate: float) -> None:
    """A part that scores higher than every good part seen is never OK, whatever the requested rate."""
    scores = np.random.default_rng(0).lognormal(size=n)
    threshold = calibrate_threshold(scores, rate)
    assert threshold.value == scores.max()
    assert threshold.method == METHOD
    assert threshold.interval == pytest.approx((1 - 0.975 ** (1 / n), 1 - 0.025 ** (1 / n)))
    assert threshold.warning == (
        f"{n} held-out good samples; {round(1 / rate) - 1} are needed to support a false-reject rate of {rate:g}. "
        f"Until then about {1 / (n + 1):.1%} of good parts are rejected"
    )


@pytest.mark.parametrize("percent", range(1, 51))
def test_the_number_of_samples_that_the_warning_asks_for_suffices(percent: int) -> None:
    rate = percent / 100
    few = calibrate_threshold([1.0, 2.0], rate)
    if few.warning == "":
        assert rate >= 1 / 3
        return
    needed = int(few.warning.split(";")[1].split()[0])
    assert needed == -(-100 // percent) - 1
    enough = calibrate_threshold(list(range(needed)), rate)
    assert enough.warning == ""
    assert enough.value <= needed - 1
    assert calibrate_threshold(list(range(needed - 1)), rate).warning != "" or needed - 1 < 2


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (24, 0.05), (46, 0.05), (46, 0.1), (100, 0.01), (9, 0.3)])
@pytest.mark.parametrize("distribution", [stats.lognorm(2), stats.norm(), stats.t(3), stats.uniform()])
def test_order_statistic_keeps_rate_and_interval(n: int, rate: float, distribution: Any) -> None:
    """Two thousand calibrations on scores whose share above a threshold is known."""
    draws = distribution.rvs(size=(REPEATS, n), random_state=1)
    thresholds = [calibrate_threshold(scores, rate) for scores in draws]
    rejected = distribution.sf([threshold.value for threshold in thresholds])
    assert rejected.mean() <= rate + 4 * rejected.std() / math.sqrt(REPEATS)
    assert rejected.mean() >= rate - 1 / (n + 1) - 4 * rejected.std() / math.sqrt(REPEATS)
    low, high = thresholds[0].interval
    covered = np.mean((rejected >= low) & (rejected <= high))
    assert covered >= 0.95 - tolerance(0.95)
    if ((n + 1) * (1 - rate)).is_integer():
        assert covered <= 0.95 + tolerance(0.95)
    assert {threshold.interval for threshold in thresholds} == {(low, high)}


@pytest.mark.parametrize(("n", "rank"), [(19, 19), (39, 38), (99, 90)])
def test_interval_of_a_rank_follows_from_counting(n: int, rank: int) -> None:
    """1 - F of the k-th smallest is at most a exactly where at least n+1-k of n samples fall in the upper share a."""
    found = calibrate_threshold(np.arange(n), 1 - rank / (n + 1))
    low, high = found.interval
    assert found.value == rank - 1
    assert stats.binom.sf(n - rank, n, low) == pytest.approx(0.025, rel=1e-6)
    assert stats.binom.sf(n - rank, n, high) == pytest.approx(0.975, rel=1e-6)


def test_more_samples_narrow_the_interval() -> None:
    widths = [float(np.ptp(calibrate_threshold(np.arange(n), 0.05).interval)) for n in (19, 99, 399, 1999)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.02 < 0.15 < widths[0]


@pytest.mark.parametrize(("n", "above"), [(10, 0), (10, 1), (10, 10), (200, 7)])
def test_threshold_by_hand_counts_held_out_samples(n: int, above: int) -> None:
    found = threshold_by_hand(5.0, [4.0, 5.0][: n - above] + [1.0] * max(0, n - above - 2) + [6.0] * above)
    assert (found.value, found.samples, found.method, found.warning) == (5.0, n, "set by hand", "")
    assert found.false_reject_rate == above / n
    exact = stats.binomtest(above, n).proportion_ci(0.95, method="exact")
    assert found.interval == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_interval_by_hand_covers_the_true_share() -> None:
    """Clopper and Pearson never cover less than they say; with counts they cover more."""
    draws = np.random.default_rng(3).exponential(size=(REPEATS, 30))
    intervals = np.array([threshold_by_hand(2.0, scores).interval for scores in draws])
    true = math.exp(-2.0)
    assert np.mean((intervals[:, 0] <= true) & (true <= intervals[:, 1])) >= 0.95 - tolerance(0.95)


def test_threshold_by_hand_without_held_out_scores_promises_nothing() -> None:
    found = threshold_by_hand(2.0, ())
    assert (found.samples, found.interval, found.false_reject_rate) == (0, (0.0, 1.0), 1.0)
    assert found.warning == "without held-out scores the share of rejected good parts is unknown"


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_threshold_by_hand_is_a_positive_number(value: float) -> None:
    with pytest.raises(ValueError, match="a threshold is a positive number"):
        threshold_by_hand(value, [1.0, 2.0])


@pytest.mark.parametrize(
    ("scores", "rate", "said"),
    [
        ([1.0], 0.05, "at least 2 held-out good samples, got 1"),
        ([], 0.05, "at least 2 held-out good samples, got 0"),
        ([1.0, math.nan], 0.05, "needs finite scores"),
        ([1.0, 2.0], 0.0, "lies between 0 and 1, got 0"),
        ([1.0, 2.0], 1.0, "lies between 0 and 1, got 1"),
        ([1.0, 2.0], math.nan, "lies between 0 and 1, got nan"),
    ],
)
def test_what_gives_no_threshold(scores: list[float], rate: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        calibrate_threshold(scores, rate)


@pytest.mark.parametrize("n", [3, 40])
def test_calibration_carries_what_it_rests_on(n: int) -> None:
    generator = np.random.default_rng(4)
    scores, peaks = generator.normal(5, 1, n), generator.normal(8, 1, n)
    found = calibrate(scores, peaks, 0.05)
    score, peak = calibrate_threshold(scores, 0.05), calibrate_threshold(peaks, 0.05)
    assert (found.score_threshold, found.map_threshold) == (score.value, peak.value)
    assert (found.interval, found.method, found.warning) == (score.interval, score.method, score.warning)
    assert found.held_out_scores == tuple(scores)
    assert found.held_out_peaks == tuple(peaks)
    assert Calibration(**json.loads(json.dumps(asdict(found)))) == found


def test_calibration_of_an_old_manifest_loads() -> None:
    old: dict[str, Any] = {"score_threshold": 1.0, "map_threshold": 2.0, "false_reject_rate": 0.05}
    found = Calibration(**old, samples=3, method="order statistic", warning="")
    assert (found.interval, found.held_out_scores, found.held_out_peaks) == ((0.0, 1.0), (), ())


def test_scipy_statistics_stay_out_of_the_runtime() -> None:
    """They take half a second to import."""
    code = (
        "import sys\nfrom cmdiad_runtime.bundle.threshold import calibrate_threshold\n"
        "calibrate_threshold([1.0, 2.0], 0.05)\nprint('scipy.stats' in sys.modules)"
    )
    assert python(code).strip() == "False"
