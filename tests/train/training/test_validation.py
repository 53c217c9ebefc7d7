"""Validation samples of a training."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cmdiad_train.training.validation import random_folds, split


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(40, 0.1, 4), (10, 0.25, 2), (4, 0.1, 1), (3, 0.1, 0), (9, 0.0, 0)]
)
def test_validation_samples_are_spread_and_never_trained_on(count: int, share: float, expected: int) -> None:
    training, validating = split(count, share)
    assert len(validating) == expected
    assert sorted(training + validating) == list(range(count))
    if expected > 1:
        assert {b - a for a, b in pairwise(validating)} == {count // expected}


def test_folds_do_not_follow_a_repeated_series_of_samples() -> None:
    """Poses that repeat after four samples: a regular fold would leave out a single pose."""
    folds = random_folds(40, 4, seed=0)
    assert sorted(index for fold in folds for index in fold) == list(range(40))
    assert [len(fold) for fold in folds] == [10] * 4
    assert all(len({index % 4 for index in fold}) > 1 for fold in folds)
    assert folds == random_folds(40, 4, seed=0) != random_folds(40, 4, seed=1)
