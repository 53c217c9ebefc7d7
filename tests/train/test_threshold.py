"""The threshold keeps its promise on good parts that it has not seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cmdiad_runtime.threshold import calibrate_threshold


@pytest.mark.parametrize(
    ("n", "rate", "rank"), [(19, 0.05, 19), (20, 0.05, 20), (39, 0.05, 38), (9, 0.1, 9), (9, 0.5, 5)]
)
def test_order_statistic(n: int, rate: float, rank: int) -> None:
    scores = np.random.default_rng(0).permutation(n) + 1.0
    found = calibrate_threshold(scores.tolist(), rate)
    assert (found.value, found.method, found.samples, found.warning) == (rank, "order statistic", n, "")
    assert found.false_reject_rate == rate


@pytest.mark.parametrize("percent", range(1, 51))
def test_the_number_of_samples_that_the_warning_asks_for_suffices(percent: int) -> None:
    rate = percent / 100
    few = calibrate_threshold([1.0, 2.0], rate)
    if few.method == "order statistic":
        assert rate >= 1 / 3
        return
    needed = int(few.warning.split(";")[1].split()[0])
    assert needed == math.ceil(1 / rate) - 1
    enough = calibrate_threshold(list(range(needed)), rate)
    assert enough.method == "order statistic"
    assert calibrate_threshold(list(range(needed - 1)), rate).method != "order statistic" or needed - 1 < 2


@pytest.mark.parametrize(("n", "rate"), [(39, 0.05), (19, 0.1)])
def test_order_statistic_keeps_the_rate_for_any_distribution(n: int, rate: float) -> None:
    generator = np.random.default_rng(1)
    draws = generator.lognormal(sigma=2, size=(4000, n + 1))
    exceeded = [new > calibrate_threshold(scores, rate).value for *scores, new in draws]
    assert np.mean(exceeded) == pytest.approx(rate, abs=0.012)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_few_samples_use_the_prediction_limit_and_say_so(n: int) -> None:
    generator = np.random.default_rng(2)
    draws = generator.normal(5, 2, size=(4000, n + 1))
    found = [calibrate_threshold(scores, 0.1) for *scores, _ in draws]
    exceeded = [new > threshold.value for threshold, (*_, new) in zip(found, draws, strict=True)]
    assert np.mean(exceeded) == pytest.approx(0.1, abs=0.016)
    assert found[0].method == "Student prediction limit"
    assert found[0].warning == f"{n} held-out good samples; 9 are needed to support a false-reject rate of 0.1"


def test_one_sample_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least 2 held-out good samples, got 1"):
        calibrate_threshold([1.0], 0.05)
