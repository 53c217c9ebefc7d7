"""Linear one-class fusion of the scores and maps of several banks (REFERENCE §13)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import SGDOneClassSVM

Columns = npt.NDArray[np.floating]

PUBLISHED_LAMBDAS = {"xyz": 1.0, "rgb": 0.1, "fusion": 1.0}
"""What the published code multiplies each bank's scores and maps with before the fusion (REFERENCE §13)."""


def ocsvm_weights(columns: Columns, *, nu: float = 0.5, iterations: int = 1000) -> npt.NDArray[np.float64]:
    """Weights float64 `[m]` of the published linear one-class SVM, fitted on columns `[n, m]`.

    A fused score is `columns @ weights`: what the SVM's `score_samples` returns. The weights depend on the
    scikit-learn version (REFERENCE §18.5); only their ratio matters for ranking.
    """
    svm = SGDOneClassSVM(random_state=42, nu=nu, max_iter=iterations)
    return np.asarray(svm.fit(columns.astype(np.float64)).coef_, dtype=np.float64)


def standardised_weights(columns: Columns) -> npt.NDArray[np.float64]:
    """Weights float64 `[m]` that count each column in units of its own spread over good samples `[n, m]`.

    w_j = 1/σ_j, scaled to sum to 1. A column that never varies gets the weight of the one that varies most.
    """
    spread = columns.astype(np.float64).std(0)
    spread = np.where(spread > 0, spread, spread.max() if spread.max() > 0 else 1.0)
    weights = 1 / spread
    return np.asarray(weights / weights.sum())
