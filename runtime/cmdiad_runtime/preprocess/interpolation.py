"""From group features to a grid of patch features, as one sparse matrix (REFERENCE §7, §19.2).

Interpolating group features to all points, scattering them into an image with zeros elsewhere and pooling
that image are linear in the features, so geometry alone gives a matrix that does all three.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from cmdiad_runtime.sample import Mask

_NEIGHBOURS = 3
_WEIGHT_GUARD = 1e-8
_BOX = 3


def interpolation_weights(
    points: npt.NDArray[np.float32], centers: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Weigh the three nearest centres of each point by 1 / (d² + 1e-8), normalised (REFERENCE §7.1).

    Distances are taken by differences. The published code expands the square in float32 and loses digits;
    its weights deviate from these by up to 2e-2, median 6e-4 (REFERENCE §18.6).

    Args:
        points: float32 `[N, 3]`, metres.
        centers: float32 `[G, 3]`, metres, G >= 3.

    Returns:
        index: int64 `[N, 3]` into `centers`, nearest first.
        weight: float32 `[N, 3]`, each row sums to 1.

    Raises:
        ValueError: with fewer than three centres.
    """
    if len(centers) < _NEIGHBOURS:
        raise ValueError(f"interpolation needs at least {_NEIGHBOURS} centres, got {len(centers)}")
    distance, index = cKDTree(centers).query(points, k=_NEIGHBOURS, workers=-1)
    weight = 1.0 / (np.square(distance) + _WEIGHT_GUARD)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.asarray(index, dtype=np.int64), weight.astype(np.float32)


def pooling_axis(size: int, grid: int) -> npt.NDArray[np.float32]:
    """One axis of the published pooling: 3-wide box, then adaptive average (REFERENCE §7.2).

    The box moves by 1 without padding, `size` -> `size` - 2; cell i of the adaptive average covers
    floor(i · n / grid) up to ceil((i + 1) · n / grid) of those n.

    Args:
        size: pixels along the axis, at least 3.
        grid: cells along the axis.

    Returns:
        float32 `[grid, size]`, each row sums to 1.
    """
    boxed = size - _BOX + 1
    matrix = np.zeros((grid, size), dtype=np.float64)
    for cell in range(grid):
        start, end = cell * boxed // grid, -(-(cell + 1) * boxed // grid)
        for shift in range(_BOX):
            matrix[cell, start + shift : end + shift] += 1.0 / (_BOX * (end - start))
    return matrix.astype(np.float32)


def pooling_matrix(
    valid: Mask,
    index: npt.NDArray[np.int64],
    weight: npt.NDArray[np.float32],
    groups: int,
    grid: int,
) -> csr_array:
    """Build the matrix that takes group features `[groups, C]` to patch features `[grid², C]`.

    Args:
        valid: bool `[S, S]`, N pixels True.
        index: int64 `[N, 3]`, groups of each valid pixel in raster order.
        weight: float32 `[N, 3]`, their weights.
        groups: number of groups.
        grid: cells along each side.

    Returns:
        Sparse float32 `[grid², groups]`, cells in raster order. Rows of cells without a valid pixel are
        empty; rows of cells at the rim sum to less than 1, as published.
    """
    y, x = np.nonzero(valid)
    size, count = len(valid), len(y)
    cell, share = _cells_of_pixel(size, grid)  # each [size, K]
    per_pixel = cell.shape[1] ** 2
    cells = (cell[y][:, :, None] * grid + cell[x][:, None, :]).reshape(-1)
    shares = (share[y][:, :, None] * share[x][:, None, :]).reshape(-1)
    pool = csr_array((shares, cells, np.arange(count + 1) * per_pixel), shape=(count, grid * grid))
    spread = csr_array(
        (weight.astype(np.float64).reshape(-1), index.reshape(-1), np.arange(count + 1) * index.shape[1]),
        shape=(count, groups),
    )
    matrix = (pool.T.tocsr() @ spread).astype(np.float32)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def _cells_of_pixel(size: int, grid: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Transpose `pooling_axis` to lists: for each pixel its K cells and its share in each, `[size, K]`.

    Pixels in fewer than K cells are filled up with cells in which their share is 0.
    """
    axis = pooling_axis(size, grid).astype(np.float64)
    width = int((axis > 0).sum(axis=0).max())
    cells = np.argsort(-axis, axis=0, kind="stable")[:width].T
    return cells, np.take_along_axis(axis, cells.T, axis=0).T
