"""Validation samples of a training."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cmdiad_train.training.validation import split


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(40, 0.1, 4), (10, 0.25, 2), (4, 0.1, 1), (3, 0.1, 0), (9, 0.0, 0)]
)
def test_validation_samples_are_spread_and_never_trained_on(count: int, share: float, expected: int) -> None:
    training, validating = split(count, share)
    assert len(validating) == expected
    assert sorted(training + validating) == list(range(count))
    if expected > 1:
        assert {b - a for a, b in pairwise(validating)} == {count // expected}
