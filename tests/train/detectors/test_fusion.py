"""Weights of the linear fusion."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import SGDOneClassSVM

from cmdiad_train.detectors.bank.fusion import ocsvm_weights, standardised_weights


def columns(count: int = 400) -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, 1.0, (count, 2)) * (1.0, 5.0)


def test_ocsvm_weights_are_sklearns_score() -> None:
    good, new = columns(), np.random.default_rng(1).gamma(2.0, 2.0, (50, 2))
    svm = SGDOneClassSVM(random_state=42, nu=0.5, max_iter=1000).fit(good)
    fused = new @ ocsvm_weights(good)
    np.testing.assert_allclose(fused, svm.score_samples(new), rtol=1e-12)
    assert np.array_equal(fused.argsort(), svm.decision_function(new).argsort())


def test_standardised_weights_count_each_column_in_its_own_spread() -> None:
    good = columns()
    weights = standardised_weights(good)
    assert weights.sum() == pytest.approx(1)
    spread = (good * weights).std(0)
    assert spread[0] == pytest.approx(spread[1])


def test_standardised_weights_do_not_depend_on_offsets() -> None:
    np.testing.assert_allclose(standardised_weights(columns()), standardised_weights(columns() + np.array([100, -3])))


@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_column_that_never_varies_gets_a_finite_weight(constant: float) -> None:
    good = columns()
    good[:, 1] = constant
    np.testing.assert_allclose(standardised_weights(good), [0.5, 0.5])
    np.testing.assert_allclose(standardised_weights(np.full((5, 2), constant)), [0.5, 0.5])
