"""The matrix that takes group features to a grid of patch features (method §7, §19.2).

Three steps are linear in the features: interpolating group features to all points, scattering the points into an
image that is zero elsewhere, and pooling this image. One matrix, which depends on the geometry alone, does all three.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.work.pieces import parts
from cmdiad_runtime.preprocess.work.workspace import WORKSPACE
from cmdiad_runtime.sample import Mask

_NEIGHBOURS = 3
_WEIGHT_GUARD = 1e-8
_BOX = 3
POINTS_AT_ONCE = 2048  # SciPy allocates distances and indices of one query: 48 KiB each
_ROWS_AT_ONCE = 16


def interpolation_weights(
    points: npt.NDArray[np.float32], centers: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Weigh the three nearest centres of each point by 1 / (d² + 1e-8), normalised (method §7.1).

    Distances are computed from differences. The published code expands the square in float32 and loses digits, so its
    weights deviate from these by up to 2e-2, median 6e-4 (method §18.6).

    Args:
        points: Points float32 `[N, 3]`, metres.
        centers: Group centres float32 `[G, 3]`, metres, G >= 3.

    Returns:
        index: Indices int64 `[N, 3]` into `centers`, nearest first.
        weight: Weights float32 `[N, 3]`; each row sums to 1.

    Raises:
        ValueError: There are fewer than three centres.
    """
    tree = center_tree(centers)
    index, weight = np.empty((len(points), 3), np.int64), np.empty((len(points), 3), np.float32)
    for part in parts(len(points), POINTS_AT_ONCE):
        weigh_centers(tree, points[part], index[part], weight[part])
    return index, weight


def center_tree(centers: npt.NDArray[np.float32]) -> scipy.spatial.cKDTree:
    """Build a k-d tree of the centres `[G, 3]`, for `weigh_centers`.

    Raises:
        ValueError: There are fewer than three centres.
    """
    if len(centers) < _NEIGHBOURS:
        raise ValueError(f"interpolation needs at least {_NEIGHBOURS} centres, got {len(centers)}")
    return scipy.spatial.cKDTree(centers)


def weigh_centers(
    tree: scipy.spatial.cKDTree,
    points: npt.NDArray[np.float32],
    index: npt.NDArray[np.int64],
    weight: npt.NDArray[np.float32],
) -> None:
    """Write the `interpolation_weights` of a few points to `index` and `weight`.

    Args:
        tree: Tree of the centres; several threads may query the tree at once.
        points: Points float32 `[n, 3]`, metres.
        index: Output, int64 `[n, 3]`.
        weight: Output, float32 `[n, 3]`.
    """
    distance, index[:] = tree.query(points, k=_NEIGHBOURS)
    np.square(distance, out=distance)
    distance += _WEIGHT_GUARD
    np.reciprocal(distance, out=distance)
    distance /= distance.sum(axis=1, keepdims=True)
    weight[:] = distance


@lru_cache(maxsize=8)
def pooling_axis(size: int, grid: int) -> npt.NDArray[np.float32]:
    """Return one axis of the published pooling: a box of width 3, then an adaptive average (method §7.2).

    The box moves by 1 without padding, which leaves n = `size` - 2 values. Cell i of the adaptive average covers
    floor(i · n / grid) up to ceil((i + 1) · n / grid) of these values.

    Args:
        size: Pixels along the axis, at least 3.
        grid: Cells along the axis.

    Returns:
        Matrix float32 `[grid, size]`; each row sums to 1.
    """
    boxed = size - _BOX + 1
    matrix = np.zeros((grid, size), dtype=np.float64)
    for cell in range(grid):
        start, end = cell * boxed // grid, -(-(cell + 1) * boxed // grid)
        for shift in range(_BOX):
            matrix[cell, start + shift : end + shift] += 1.0 / (_BOX * (end - start))
    return matrix.astype(np.float32)


def pooling_weights(
    valid: Mask,
    index: npt.NDArray[np.int64],
    weight: npt.NDArray[np.float32],
    groups: int,
    grid: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Build the matrix that takes group features to patch features: `(weights @ features)[cells]`.

    Args:
        valid: Pixels with a point, bool `[S, S]`, N of them True.
        index: Groups of each valid pixel in raster order, int64 `[N, 3]`.
        weight: Weights of these groups, float32 `[N, 3]`.
        groups: Number of groups.
        grid: Cells along each side.

    Returns:
        weights: Matrix float32 `[R, groups]`. Row 0 is all zeros (background), then one row follows for each cell with
            a valid pixel, in raster order. Rows of cells at the rim sum to less than 1, as published. The sums are
            computed in float32, within 5e-7 of the exact sums.
        cells: Row of each cell in raster order, int64 `[grid²]`; 0 is background.
    """
    cells, rows = _rows_of_cells(valid, grid)
    weights = np.zeros((rows, groups), dtype=np.float32)
    cell, share = _cells_of_pixel(len(valid), grid)  # each [K, size]
    y, x = _places(valid)
    target = WORKSPACE.take("target", (len(y),), np.int64)
    part = WORKSPACE.take("part", (len(y),), np.float32)
    entry = WORKSPACE.take("entry", index.shape, np.int64)
    amount = WORKSPACE.take("amount", weight.shape, np.float32)
    across = WORKSPACE.take("across", (len(y),), np.int64)
    factor = WORKSPACE.take("factor", (len(y),), np.float32)
    for down, right in product(range(len(cell)), repeat=2):
        np.take(cell[down], y, out=target, mode="clip")
        np.multiply(target, grid, out=target)
        np.add(target, np.take(cell[right], x, out=across, mode="clip"), out=target)
        np.take(cells, target, out=across, mode="clip")
        np.add(np.multiply(across, groups, out=across)[:, None], index, out=entry)
        np.take(share[down], y, out=part, mode="clip")
        np.multiply(part, np.take(share[right], x, out=factor, mode="clip"), out=part)
        np.multiply(part[:, None], weight, out=amount)
        np.add.at(weights.reshape(-1), entry.reshape(-1), amount.reshape(-1))
    return weights, cells


def _rows_of_cells(valid: Mask, grid: int) -> tuple[npt.NDArray[np.int64], int]:
    """Return the row of each cell, int64 `[grid²]`, 0 for a cell without a valid pixel, and the number of rows."""
    start, end = _span_of_cells(len(valid), grid)
    right = WORKSPACE.take("right", (len(valid), len(valid) + 1), np.int32)
    right[:, 0] = 0
    np.cumsum(valid, axis=1, out=right[:, 1:])
    down = np.zeros((len(valid) + 1, grid), np.int32)
    np.cumsum(right[:, end] > right[:, start], axis=0, out=down[1:])
    filled = (down[end] > down[start]).reshape(-1)
    return np.where(filled, np.cumsum(filled), 0).astype(np.int64), 1 + int(np.count_nonzero(filled))


@lru_cache(maxsize=8)
def _span_of_cells(size: int, grid: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first pixel of each cell along an axis, and the pixel after its last, int64 `[grid]` each."""
    touches = pooling_axis(size, grid) > 0
    return touches.argmax(axis=1), size - touches[:, ::-1].argmax(axis=1)


def _places(valid: Mask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return row and column of the valid pixels in raster order, work arrays int64 `[N]` each."""
    count, size = int(np.count_nonzero(valid)), valid.shape[1]
    flat, y, x = (WORKSPACE.take(name, (count,), np.int64) for name in ("flat", "y", "x"))
    end = 0
    for row in range(0, len(valid), _ROWS_AT_ONCE):
        pixels = np.flatnonzero(valid[row : row + _ROWS_AT_ONCE])
        np.add(pixels, row * size, out=flat[end : end + len(pixels)])
        end += len(pixels)
    np.divmod(flat, size, out=(y, x))
    return y, x


@lru_cache(maxsize=8)
def _cells_of_pixel(size: int, grid: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the K cells of each pixel along an axis, and the pixel's share in each cell, `[K, size]` each.

    This is the transpose of `pooling_axis` as lists. Pixels in fewer than K cells are filled up with cells in which
    their share is 0.
    """
    axis = pooling_axis(size, grid)
    width = int((axis > 0).sum(axis=0).max())
    cells = np.argsort(-axis, axis=0, kind="stable")[:width]
    return cells, np.take_along_axis(axis, cells, axis=0)
