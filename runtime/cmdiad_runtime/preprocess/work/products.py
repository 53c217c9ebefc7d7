"""Small matrix products without BLAS.

NumPy's BLAS (OpenBLAS) distributes large products to its own threads. Afterwards these threads keep a core busy for
about 25 ms while they wait for more work, and the helper thread and the engine's threads lack that time. Products with
matrices this small do not need threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.floating[Any]]


def times(rows: _Floats, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return `rows @ matrix`, float64 `[N, m]`, for many rows `[N, k]` and a small matrix `[k, m]`."""
    columns = np.ascontiguousarray(rows.T, dtype=np.float64)
    product = np.zeros((matrix.shape[1], len(rows)))
    for (k, m), weight in np.ndenumerate(matrix):
        product[m] += weight * columns[k]
    return np.ascontiguousarray(product.T)


def moments(rows: _Floats, others: _Floats) -> npt.NDArray[np.float64]:
    """Return `rows.T @ others`, float64 `[k, m]`, for many rows `[N, k]` and `[N, m]`."""
    return np.einsum("nk,nm->km", rows, others, dtype=np.float64)
