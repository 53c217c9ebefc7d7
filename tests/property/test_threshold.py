"""The threshold keeps the conformal promise: a new good part exceeds it at most at the requested rate."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from cmdiad_runtime.bundle.threshold import calibrate_threshold, threshold_by_hand

scores = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=120)
rates = st.floats(0.005, 0.5)


@given(values=scores, rate=rates)
def test_leave_one_out_coverage_is_exact(values: list[float], rate: float) -> None:
    """Each score in turn is the new part; exchangeability makes the rejected share the probability of a rejection."""
    assume(len(values) > math.ceil(1 / rate) + 1)
    rejected = sum(
        value > calibrate_threshold(values[:index] + values[index + 1 :], rate).value
        for index, value in enumerate(values)
    )
    assert rejected <= rate * len(values) + 1e-9


@given(values=scores, rate=rates)
def test_the_order_of_scores_does_not_matter(values: list[float], rate: float) -> None:
    shuffled = np.random.default_rng(0).permutation(values).tolist()
    one, other = calibrate_threshold(values, rate), calibrate_threshold(shuffled, rate)
    assert math.isclose(one.value, other.value)
    assert one.interval == other.interval


@given(values=scores, rate=rates)
def test_a_smaller_rate_never_lowers_the_threshold(values: list[float], rate: float) -> None:
    strict, lenient = calibrate_threshold(values, rate / 2), calibrate_threshold(values, rate)
    assume(strict.method == lenient.method)
    assert strict.value >= lenient.value


@given(values=scores, rate=rates)
def test_the_interval_is_one_and_a_warning_says_when_the_limit_is_a_model(values: list[float], rate: float) -> None:
    threshold = calibrate_threshold(values, rate)
    low, high = threshold.interval
    assert 0 <= low <= high <= 1
    assert threshold.samples == len(values)
    supported = math.ceil((len(values) + 1) * (1 - rate) - 1e-9) <= len(values)
    assert (threshold.warning == "") == supported
    if supported:
        assert threshold.value in values


@given(values=scores, value=st.floats(1e-3, 1e3))
def test_a_threshold_set_by_hand_reports_the_share_above(values: list[float], value: float) -> None:
    threshold = threshold_by_hand(value, values)
    assert threshold.value == value
    assert threshold.false_reject_rate == sum(score > value for score in values) / len(values)
    low, high = threshold.interval
    assert low <= threshold.false_reject_rate <= high
