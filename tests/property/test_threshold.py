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
def test_leave_one_out_coverage_is_that_of_the_next_rank(values: list[float], rate: float) -> None:
    """Each score in turn is the new part; exchangeability makes the rejected share the probability of a rejection.

    Whatever the scores, interpolation towards the rank below costs at most one rejected part.
    """
    assume(len(values) > math.ceil(1 / rate) + 1)
    rejected = sum(
        value > calibrate_threshold(values[:index] + values[index + 1 :], rate).value
        for index, value in enumerate(values)
    )
    assert rejected <= math.ceil(rate * len(values) - 1e-9)


@given(values=scores, rate=rates)
def test_the_order_of_scores_does_not_matter(values: list[float], rate: float) -> None:
    shuffled = np.random.default_rng(0).permutation(values).tolist()
    one, other = calibrate_threshold(values, rate), calibrate_threshold(shuffled, rate)
    assert math.isclose(one.value, other.value)
    assert one.interval == other.interval


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=120),
    rate=st.floats(1e-9, 1, exclude_max=True),
    other=st.floats(1e-9, 1, exclude_max=True),
)
def test_a_smaller_rate_never_lowers_the_threshold(values: list[float], rate: float, other: float) -> None:
    strict, lenient = (calibrate_threshold(values, r) for r in sorted((rate, other)))
    assert strict.value >= lenient.value
    assert strict.method == lenient.method


@given(values=scores, rate=rates)
def test_a_threshold_is_one_of_the_scores_or_lies_between_or_is_warned_about(values: list[float], rate: float) -> None:
    threshold = calibrate_threshold(values, rate)
    low, high = threshold.interval
    assert 0 <= low <= high <= 1
    assert threshold.samples == len(values)
    supported = math.ceil((len(values) + 1) * (1 - rate) - 1e-9) <= len(values)
    assert (threshold.warning == "") == supported
    if supported:
        assert min(values) <= threshold.value <= max(values)
    else:
        assert threshold.value >= max(values)


@given(values=scores, value=st.floats(1e-3, 1e3))
def test_a_threshold_set_by_hand_reports_the_share_above(values: list[float], value: float) -> None:
    threshold = threshold_by_hand(value, values)
    assert threshold.value == value
    assert threshold.false_reject_rate == sum(score > value for score in values) / len(values)
    low, high = threshold.interval
    assert low <= threshold.false_reject_rate <= high
