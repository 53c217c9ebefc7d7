"""Small matrix products without BLAS.

NumPy's BLAS (OpenBLAS) shares large products with threads of its own, which then keep a core busy for some 25 ms,
waiting for more: time that the helper thread and the engine's threads lack. Matrices this small need no help.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.floating[Any]]


def times(rows: _Floats, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`rows @ matrix`, float64 `[N, m]`, of many rows `[N, k]` and a small matrix `[k, m]`."""
    columns = np.ascontiguousarray(rows.T, dtype=np.float64)
    found = np.zeros((len(rows), matrix.shape[1]))
    for (k, m), weight in np.ndenumerate(matrix):
        found[:, m] += weight * columns[k]
    return found


def moments(rows: _Floats, others: _Floats) -> npt.NDArray[np.float64]:
    """`rows.T @ others`, float64 `[k, m]`, of many rows `[N, k]` and `[N, m]`."""
    return np.einsum("nk,nm->km", rows, others, dtype=np.float64)
