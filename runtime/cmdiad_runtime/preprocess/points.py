"""Point sampling and grouping in front of the point encoder (REFERENCE §6.1-6.2)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from cmdiad_runtime.preprocess.workspace import WORKSPACE

_Columns = npt.NDArray[np.float32]
_Index = npt.NDArray[np.int64]

_NEAR_ORIGIN = np.float32(1e-3)  # rounds up: at or above it is what the kernel's double 1e-3 calls above
_FAR = 1e10
_NEVER = -1.0  # a nearest distance that no point has, so that it is never the largest
_MAX_THREADS = 512
_SLACK = 1e-6  # of a distance, beyond what rounding to float32 can take from it
_UNDERFLOW = 2e-19  # metres: squares of shorter steps may round to 0
_CENTERS_AT_ONCE = 56
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
    total = len(points)
    axis = int((points.max(axis=0) - points.min(axis=0)).argmax())
    order, columns = _sorted_along(points, axis)
    along = memoryview(columns[axis])
    squares = WORKSPACE.take("squares", (3, total), np.float32)
    nearest = WORKSPACE.take("nearest", (total,), np.float32)
    flags = WORKSPACE.take("flags", (total,), np.bool_)
    np.less(_squared_distance(columns, np.zeros(3, np.float32), squares), _NEAR_ORIGIN, out=flags)
    nearest.fill(_FAR)
    np.copyto(nearest, np.float32(_NEVER), where=flags)
    last, farthest = points[0], _FAR
    for turn in range(1, count):
        reach = farthest**0.5 * (1 + _SLACK) + _UNDERFLOW
        middle = float(last[axis])
        start = bisect_left(along, middle - reach)
        end = bisect_right(along, middle + reach, start)
        part = nearest[start:end]
        np.minimum(part, _squared_distance(columns[:, start:end], last, squares[:, start:end]), out=part)
        best = int(nearest.argmax())
        farthest = nearest.item(best)
        if farthest < 0:
            break
        np.equal(nearest, nearest[best], out=flags)
        chosen[turn] = order[best] if np.count_nonzero(flags) == 1 else _first_of(order[flags], total)
        last = points[chosen[turn]]
    return chosen


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


def _squared_distance(columns: _Columns, centre: npt.NDArray[np.float32], squares: _Columns) -> Any:
    """(dx² + dy²) + dz² in float32, the kernel's order; lies in the first row of the work array `squares`."""
    np.subtract(columns, centre[:, None], out=squares)
    np.multiply(squares, squares, out=squares)
    x, y, z = squares
    np.add(x, y, out=x)
    return np.add(x, z, out=x)


def group_points(
    points: npt.NDArray[np.float32],
    centers: npt.NDArray[np.float32],
    size: int,
    *,
    out: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Find the `size` nearest points of each centre, by exact distances (REFERENCE §6.2).

    Args:
        points: float32 `[N, 3]`, metres, N >= `size`.
        centers: float32 `[G, 3]`, metres.
        size: points per group.
        out: int64 `[G, size]` to write into; None makes a new one.

    Returns:
        int64 `[G, size]`, indices into `points`, nearest first. Which of several equally far points comes
        first or in at all is not specified, but the same at every call.
    """
    index = np.empty((len(centers), size), dtype=np.int64) if out is None else out
    position = WORKSPACE.take("position", points.shape, np.float64)
    position[:] = points
    tree = cKDTree(position, balanced_tree=False)  # without medians: a quarter of the time to build
    ranks = np.arange(1, size + 1)
    for start in range(0, len(centers), _CENTERS_AT_ONCE):
        part = slice(start, start + _CENTERS_AT_ONCE)
        index[part] = tree.query(centers[part], k=ranks)[1]
    return index
