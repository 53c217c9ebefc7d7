"""Point sampling and grouping in front of the point encoder (REFERENCE §6.1-6.2)."""

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

_NEAR_ORIGIN = np.float32(1e-3)  # rounds up: at or above it is what the kernel's double 1e-3 calls above
_FAR = 1e10
_NEVER = -1.0  # a nearest distance that no point has, so that it is never the largest
_MAX_THREADS = 512
_SLACK = 1e-6  # of a distance, beyond what rounding to float32 can take from it
_UNDERFLOW = 2e-19  # metres: squares of shorter steps may round to 0
CENTERS_AT_ONCE = 56
"""SciPy allocates distances and indices of one query: 56 KiB each for groups of 128. For queries this small, starting
its worker threads each time takes longer than they save."""


def farthest_point_sampling(points: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Choose `count` points, each the farthest from all chosen before (REFERENCE §6.1).

    Follows the CUDA kernel of Pointnet2_PyTorch bit for bit as far as float32 without fused multiply-add
    goes. The first choice is index 0. Points with |p|² <= 1e-3 m² are never chosen after it. Among equally
    far points k the lowest (k mod T, k) wins, T = min(512, 2^floor(log2 N)) being the kernel's threads.

    A new choice changes no point that lies further from it than the farthest point lay from all before. Points
    are sorted along their longest axis, so that all it can change is one slice, soon a small one.

    Args:
        points: float32 `[N, 3]`, finite, metres, N >= 1.
        count: how many to choose; beyond N, points repeat.

    Returns:
        int64 `[count]`, indices into `points` in the order of choice.
    """
    chosen = np.zeros(count, dtype=np.int64)
    for turn, choice in enumerate(farthest_points(points, count)):
        chosen[turn] = choice
    return chosen


def farthest_points(points: npt.NDArray[np.float32], count: int) -> Iterator[int]:
    """The choices of `farthest_point_sampling` one by one, so that others can begin with the first ones.

    Between two of them, nothing else may sample in this thread.
    """
    axis = int(np.argmax([column.max() - column.min() for column in points.T]))  # far faster than along axis 0
    order, columns = _sorted_along(points, axis)
    nearest = WORKSPACE.take("nearest", (len(points),), np.float32)
    squares = WORKSPACE.take("squares", (3 * len(points),), np.float32)
    last = np.zeros(3, dtype=np.float32)
    at = last[0, ...], last[1, ...], last[2, ...]  # arrays without axes: NumPy's fastest way to take one from many
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
        others = nearest[best + 1 :]  # argmax gives the first of equals
        alone = best + 1 == len(nearest) or others.item(others.argmax()) < farthest
        choice = order.item(best) if alone else _first_of(order[nearest == nearest[best]], len(points))
    if count:
        yield choice


def _sorted_along(points: npt.NDArray[np.float32], axis: int) -> tuple[_Index, _Columns]:
    """Indices `[N]` that sort the points along an axis, and the points so sorted as columns `[3, N]`.

    Coordinates and indices are packed in one integer each: sorting those in place needs no memory.
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
        unsorted[:] = values  # `take` would copy it
        np.take(unsorted, keys, out=column, mode="clip")
    return keys, columns


def _first_of(tied: _Index, total: int) -> int:
    """Of equally far points the one that the kernel takes."""
    threads = min(_MAX_THREADS, 1 << (total.bit_length() - 1))
    return int(tied[np.lexsort((tied, tied % threads))[0]])


def _squared_distance(columns: _Columns | _Triple, centre: _Triple, squares: npt.NDArray[np.float32]) -> Any:
    """(dx² + dy²) + dz² in float32, the kernel's order, of three columns `[n]`; lies first in the work array."""
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
    """Find the `size` nearest points of each centre, by exact distances (REFERENCE §6.2).

    Args:
        points: float32 `[N, 3]`, metres, N >= `size`.
        centers: float32 `[G, 3]`, metres.
        size: points per group.

    Returns:
        int64 `[G, size]`, indices into `points`, nearest first. Which of several equally far points comes
        first or in at all is not specified, but the same at every call.
    """
    index = np.empty((len(centers), size), dtype=np.int64)
    tree = point_tree(doubles(points))
    for part in parts(len(centers), CENTERS_AT_ONCE):
        index[part] = nearest_points(tree, centers[part], size)
    return index


def doubles(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Points as `point_tree` takes them, float64 `[N, 3]`: a work array of this thread."""
    position = WORKSPACE.take("position", points.shape, np.float64)
    position[:] = points
    return position


def point_tree(position: npt.NDArray[np.float64]) -> scipy.spatial.cKDTree:
    """A k-d tree of all points `[N, 3]`, for `nearest_points`; it refers to `position`."""
    return scipy.spatial.cKDTree(position, balanced_tree=False)  # without medians: a quarter of the time to build


def nearest_points(tree: scipy.spatial.cKDTree, centers: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.int64]:
    """The `size` nearest points int64 `[n, size]` of a few centres `[n, 3]`; threads may ask one tree at once."""
    index: npt.NDArray[np.int64] = tree.query(centers, k=np.arange(1, size + 1))[1]
    return index
