"""Linear one-class fusion of the scores and maps of several banks (method §13)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import SGDOneClassSVM
from torch import Tensor

from cmdiad_train.recipe import Recipe, bank_part

Columns = npt.NDArray[np.floating]

PUBLISHED_LAMBDAS = {"xyz": 1.0, "rgb": 0.1, "fusion": 1.0}
"""Factors of the published code for the scores and maps of each bank before the fusion (method §13)."""


def fusion_weights(columns: Tensor, recipe: Recipe) -> Tensor:
    """Return the weights float32 `[banks]` of a recipe's fusion, fitted on scores or map values `[n, banks]`."""
    if columns.shape[1] == 1:
        return torch.ones(1)
    values = columns.double().numpy()
    if bank_part(recipe).fusion == "standardised":
        return torch.from_numpy(standardised_weights(values)).float()
    lambdas = np.ones(values.shape[1])
    if bank_part(recipe).mode == "faithful":
        names = [*recipe.mains, "fusion"][: values.shape[1]]
        lambdas = np.array([PUBLISHED_LAMBDAS[name] for name in names])
    return torch.from_numpy(lambdas * ocsvm_weights(lambdas * values)).float()


def ocsvm_weights(columns: Columns, *, nu: float = 0.5, iterations: int = 1000) -> npt.NDArray[np.float64]:
    """Return the weights float64 `[m]` of the published linear one-class SVM, fitted on columns `[n, m]`.

    A fused score is `columns @ weights`: the value that `score_samples` of the SVM returns. The weights depend on the
    scikit-learn version (method §18.5); only their ratio matters for ranking.
    """
    svm = SGDOneClassSVM(random_state=42, nu=nu, max_iter=iterations)
    return np.asarray(svm.fit(columns.astype(np.float64)).coef_, dtype=np.float64)


def standardised_weights(columns: Columns) -> npt.NDArray[np.float64]:
    """Return weights float64 `[m]` that scale each column by the spread of that column over good samples `[n, m]`.

    w_j = 1/σ_j, scaled to sum to 1. A column that never varies gets the weight of the one that varies most.
    """
    spread = columns.astype(np.float64).std(0)
    spread = np.where(spread > 0, spread, spread.max() if spread.max() > 0 else 1.0)
    weights = 1 / spread
    return np.asarray(weights / weights.sum())
