"""Scores as text: the same decimals as the threshold, and never the same text for different values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdiad_runtime.support.score_text import compared, score_texts

NUMBERS = st.floats(-1e12, 1e12)


@pytest.mark.parametrize(
    ("score", "threshold", "text"),
    [
        (4.65, 4.648, "4.650 > thr 4.648"),
        (4.6504, 4.6496, "4.6504 > thr 4.6496"),
        (12.5, 8.22302, "12.500 > thr 8.223"),
        (8.2229999, 8.223, "8.2229999 < thr 8.2230000"),
        (0.5, 123.456, "0.5 < thr 123.5"),
        (3.0, 3.0, "3.000 = thr 3.000"),
        (0.1, 0.0, "0.100 > thr 0.000"),
    ],
)
def test_score_and_threshold(score: float, threshold: float, text: str) -> None:
    assert compared(score, threshold, "thr") == text


@pytest.mark.seconds
@given(NUMBERS, NUMBERS)
def test_different_values_have_different_texts(score: float, threshold: float) -> None:
    written, limit = map(float, score_texts(score, threshold))
    assert (written > limit, written < limit) == (score > threshold, score < threshold)


@given(NUMBERS)
def test_neighbours_of_a_threshold_differ_from_it(threshold: float) -> None:
    for score in (math.nextafter(threshold, math.inf), math.nextafter(threshold, -math.inf)):
        written, limit = map(float, score_texts(score, threshold))
        assert (written > limit, written < limit) == (score > threshold, score < threshold)
