"""Figures of drift against independent computations and against distributions with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from cmdiad_line.records.statistics import (
    LEAST_BASELINE,
    TAIL,
    Baseline,
    binomial_limits,
    ewma_chart,
    stage_latencies,
    watch_for_drift,
)

WEIGHT, WIDTH = 0.05, 4.0


def test_average_is_the_recursive_filter():
    scores = np.random.default_rng(1).gamma(4, 0.1, 300)
    baseline = Baseline(0.4, 0.2, 100)
    chart = ewma_chart(scores, baseline, 0.2, 3.0)
    state = [(1 - 0.2) * baseline.mean]
    filtered, _ = scipy.signal.lfilter([0.2], [1, -0.8], scores, zi=state)
    np.testing.assert_allclose(chart.averages, filtered)


def test_published_example():
    """NIST/SEMATECH e-Handbook, 6.3.2.4: mean 50, standard deviation 2.0539, weight 0.3, width 3."""
    data = [52.0, 47.0, 53.0, 49.3, 50.1, 47.0, 51.0, 50.1, 51.2, 50.5, 49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6]
    data += [52.4, 53.6, 52.1]
    expected = [50.60, 49.52, 50.56, 50.18, 50.16, 49.21, 49.75, 49.85, 50.26, 50.33, 50.11, 49.36, 49.52, 50.05]
    expected += [49.38, 49.92, 50.73, 51.23, 51.94, 51.99]
    chart = ewma_chart(data, Baseline(50, 2.0539, 20), 0.3, 3)
    np.testing.assert_allclose(chart.averages, expected, atol=0.011)
    assert chart.upper[-1] == pytest.approx(52.5884, abs=0.01)
    assert chart.lower[-1] == pytest.approx(47.4115, abs=0.01)
    assert not chart.outside.any()


def test_limits_are_the_deviation_of_the_average():
    """Simulated averages of independent scores spread as the formula says, for each length."""
    random = np.random.default_rng(2)
    baseline = Baseline(0.0, 1.0, 100)
    averages = np.array([ewma_chart(random.normal(size=30), baseline, 0.1, 1.0).averages for _ in range(4000)])
    limit = ewma_chart(np.zeros(30), baseline, 0.1, 1.0).upper
    np.testing.assert_allclose(averages.std(axis=0), limit, rtol=0.05)


def test_steady_scores_hardly_ever_alarm_and_a_shift_does():
    random = np.random.default_rng(3)
    scores = random.gamma(9, 0.05, 20_000)  # Skewed as scores are.
    baseline = Baseline.of(random.gamma(9, 0.05, 2000))
    assert baseline is not None
    assert ewma_chart(scores, baseline, WEIGHT, WIDTH).outside.mean() < 0.001
    shifted = np.concatenate([scores[:500], scores[500:600] + baseline.deviation])
    assert watch_for_drift(shifted[:500], baseline, WEIGHT, WIDTH).alarm is False
    drift = watch_for_drift(shifted, baseline, WEIGHT, WIDTH)
    assert drift.alarm is True
    assert "higher" in drift.message
    lower = watch_for_drift(scores[:200] - baseline.deviation, baseline, WEIGHT, WIDTH)
    assert lower.alarm is True
    assert "lower" in lower.message


def test_alarm_ends_when_the_scores_return():
    baseline = Baseline(1.0, 0.1, 50)
    scores = [1.3] * 50 + [1.0] * 100
    assert watch_for_drift(scores[:50], baseline, WEIGHT, WIDTH).alarm is True
    assert watch_for_drift(scores, baseline, WEIGHT, WIDTH).alarm is False


@pytest.mark.parametrize("scores", [[], [0.5] * (LEAST_BASELINE - 1), [0.5] * 100])
def test_baseline_needs_scores_that_differ(scores):
    assert Baseline.of(scores) is None
    assert watch_for_drift([9.9] * 50, None, WEIGHT, WIDTH).alarm is False


def test_baseline_is_mean_and_sample_deviation():
    scores = np.random.default_rng(4).normal(3, 2, 50)
    baseline = Baseline.of(scores)
    assert baseline is not None
    assert baseline.mean == pytest.approx(math.fsum(scores) / 50)
    assert baseline.deviation == pytest.approx(scipy.stats.tstd(scores))


@given(parts=st.integers(1, 400), rate=st.floats(0.0001, 0.9999))
def test_limits_of_the_rate_are_quantiles(parts, rate):
    lower, upper = binomial_limits(parts, rate)
    distribution = scipy.stats.binom(parts, rate)
    assert distribution.cdf(lower - 1) <= TAIL + 1e-12
    assert distribution.sf(upper) <= TAIL + 1e-9
    assert distribution.cdf(lower) > TAIL - 1e-12
    if upper > 0:
        assert distribution.sf(upper - 1) >= TAIL - 1e-9


@pytest.mark.parametrize(("parts", "rate", "limits"), [(0, 0.5, (0, 0)), (10, 0.0, (0, 0)), (10, 1.0, (10, 10))])
def test_limits_at_the_ends(parts, rate, limits):
    assert binomial_limits(parts, rate) == limits


def test_latency_of_a_stage_is_the_time_since_the_stage_before():
    timings = [
        {"acquired": 10.0, "inspected": 40.0, "recorded": 45.0, "published": 46.0, "engine": 20.0, "map": 5.0},
        {"acquired": 20.0, "inspected": 60.0, "recorded": 70.0, "published": 71.0, "engine": 30.0},
        {"acquired": 30.0, "published": 1000.0},
        {},
    ]
    latencies = stage_latencies(timings)
    assert latencies["acquired"].p50 == 20.0
    assert latencies["inspected"].largest == 40.0
    assert latencies["recorded"].parts == 2
    assert latencies["total"].largest == 1000.0
    assert latencies["published"].largest == 970.0
    assert latencies["engine"].p50 == 25.0
    assert latencies["map"].p50 == 5.0
    assert stage_latencies([]) == {}
