"""Sampling and grouping of points for the point encoder (method §6.1-6.2)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.work.pieces import parts
from cmdiad_runtime.preprocess.work.workspace import WORKSPACE

_Columns = npt.NDArray[np.float32]
_Triple = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]
_Index = npt.NDArray[np.int64]

_NEAR_ORIGIN = np.float32(1e-3)  # rounds up, so "at or above" equals "above" for the kernel's double 1e-3
_FAR = 1e10
_NEVER = -1.0  # smaller than any distance, so that such a point is never the farthest
_MAX_THREADS = 512
_SLACK = 1e-6  # share of a distance, more than rounding to float32 can remove
_UNDERFLOW = 2e-19  # metres: squares of shorter steps may round to 0
CENTERS_AT_ONCE = 56
"""Centres per query. SciPy allocates distances and indices for each query, 56 KiB each for groups of 128. For queries
this small, starting SciPy's worker threads takes longer than they save."""


def farthest_point_sampling(points: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Choose `count` points, each the farthest from all chosen before (method §6.1).

    The result equals that of the CUDA kernel of Pointnet2_PyTorch bit for bit, as far as float32 without fused
    multiply-add allows. The first choice is index 0. Points with |p|² <= 1e-3 m² are never chosen afterwards. Among
    equally far points k, the one with the lowest (k mod T, k) is chosen, where T = min(512, 2^floor(log2 N)) is the
    number of threads of the kernel.

    A new choice leaves the distance of a point unchanged if the point lies further from the choice than the farthest
    point lay from all earlier choices. The points are sorted along their longest axis, so that a choice can change one
    slice only, which soon becomes small.

    Args:
        points: Points float32 `[N, 3]`, finite, metres, N >= 1.
        count: Number of points to choose; beyond N, points repeat.

    Returns:
        Indices into `points` in the order of choice, int64 `[count]`.
    """
    chosen = np.zeros(count, dtype=np.int64)
    for turn, choice in enumerate(farthest_points(points, count)):
        chosen[turn] = choice
    return chosen


def farthest_points(points: npt.NDArray[np.float32], count: int) -> Iterator[int]:
    """Yield the choices of `farthest_point_sampling` one by one, so that work on the first ones can begin.

    Do not sample other points in the same thread before all choices are consumed.
    """
    axis = int(np.argmax([column.max() - column.min() for column in points.T]))  # far faster than along axis 0
    order, columns = _sorted_along(points, axis)
    nearest = WORKSPACE.take("nearest", (len(points),), np.float32)
    squares = WORKSPACE.take("squares", (3 * len(points),), np.float32)
    last = np.zeros(3, dtype=np.float32)
    at = last[0, ...], last[1, ...], last[2, ...]  # arrays without axes: NumPy subtracts these fastest
    flags = WORKSPACE.take("flags", (len(points),), np.bool_)
    np.less(_squared_distance(columns, at, squares), _NEAR_ORIGIN, out=flags)
    nearest.fill(_FAR)
    np.copyto(nearest, np.float32(_NEVER), where=flags)
    along = memoryview(columns[axis])
    x, y, z = columns
    choice, farthest = 0, _FAR
    for turn in range(1, count):
        yield choice
        last[:] = points[choice]
        reach = farthest**0.5 * (1 + _SLACK) + _UNDERFLOW
        middle = last.item(axis)
        start = bisect_left(along, middle - reach)
        end = bisect_right(along, middle + reach, start)
        part = nearest[start:end]
        np.minimum(part, _squared_distance((x[start:end], y[start:end], z[start:end]), at, squares), out=part)
        best = int(nearest.argmax())
        farthest = nearest.item(best)
        if farthest < 0:
            yield from repeat(0, count - turn)
            return
        others = nearest[best + 1 :]  # argmax returns the first of equals
        alone = best + 1 == len(nearest) or others.item(others.argmax()) < farthest
        choice = order.item(best) if alone else _first_of(order[nearest == nearest[best]], len(points))
    if count:
        yield choice


def _sorted_along(points: npt.NDArray[np.float32], axis: int) -> tuple[_Index, _Columns]:
    """Return indices `[N]` that sort the points along an axis, and the sorted points as columns `[3, N]`.

    Coordinate and index of a point are packed into one integer, because sorting integers in place needs no memory.
    """
    total = len(points)
    keys = WORKSPACE.take("keys", (total,), np.int64)
    columns = WORKSPACE.take("columns", (3, total), np.float32)
    columns[0] = points[:, axis]
    bits = columns[0].view(np.int32)
    sign = columns[1].view(np.int32)
    np.right_shift(bits, 31, out=sign)
    np.bitwise_and(sign, 0x7FFFFFFF, out=sign)
    np.bitwise_xor(bits, sign, out=keys)  # integers in the order of the floats
    np.left_shift(keys, 32, out=keys)
    np.bitwise_or(keys, WORKSPACE.counting(total), out=keys)
    keys.sort()
    np.bitwise_and(keys, 0xFFFFFFFF, out=keys)
    unsorted = WORKSPACE.take("unsorted", (total,), np.float32)
    for column, values in zip(columns, points.T, strict=True):
        unsorted[:] = values  # `take` would copy a strided column
        np.take(unsorted, keys, out=column, mode="clip")
    return keys, columns


def _first_of(tied: _Index, total: int) -> int:
    """Return the one of several equally far points that the CUDA kernel chooses."""
    threads = min(_MAX_THREADS, 1 << (total.bit_length() - 1))
    return int(tied[np.lexsort((tied, tied % threads))[0]])


def _squared_distance(columns: _Columns | _Triple, centre: _Triple, squares: npt.NDArray[np.float32]) -> Any:
    """Return (dx² + dy²) + dz² in float32, in the kernel's order, as a part of the work array `squares`."""
    n = len(columns[0])
    x, y, z = squares[:n], squares[n : 2 * n], squares[2 * n : 3 * n]
    np.subtract(columns[0], centre[0], out=x)
    np.subtract(columns[1], centre[1], out=y)
    np.subtract(columns[2], centre[2], out=z)
    all_three = squares[: 3 * n]
    np.multiply(all_three, all_three, out=all_three)
    np.add(x, y, out=x)
    return np.add(x, z, out=x)


def group_points(points: npt.NDArray[np.float32], centers: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.int64]:
    """Find the `size` nearest points of each centre, by exact distances (method §6.2).

    Args:
        points: Points float32 `[N, 3]`, metres, N >= `size`.
        centers: Group centres float32 `[G, 3]`, metres.
        size: Points per group.

    Returns:
        Indices into `points`, nearest first, int64 `[G, size]`. The order and choice among equally far points is not
        specified, but is the same for every call.
    """
    index = np.empty((len(centers), size), dtype=np.int64)
    tree = point_tree(doubles(points))
    for part in parts(len(centers), CENTERS_AT_ONCE):
        index[part] = nearest_points(tree, centers[part], size)
    return index


def doubles(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return points as float64 `[N, 3]`, a work array of this thread, for `point_tree`."""
    position = WORKSPACE.take("position", points.shape, np.float64)
    position[:] = points
    return position


def point_tree(position: npt.NDArray[np.float64]) -> scipy.spatial.cKDTree:
    """Build a k-d tree of points `[N, 3]`, for `nearest_points`; the tree refers to `position`."""
    return scipy.spatial.cKDTree(position, balanced_tree=False)  # without medians, building takes a quarter of the time


def nearest_points(tree: scipy.spatial.cKDTree, centers: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.int64]:
    """Return the `size` nearest points of a few centres `[n, 3]`, int64 `[n, size]`; safe for several threads."""
    index: npt.NDArray[np.int64] = tree.query(centers, k=np.arange(1, size + 1))[1]
    return index
