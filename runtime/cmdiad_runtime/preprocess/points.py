"""Point sampling and grouping in front of the point encoder (REFERENCE §6.1-6.2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

_Column = npt.NDArray[np.float32]

_NEAR_ORIGIN = 1e-3
_MAX_THREADS = 512


def farthest_point_sampling(points: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Choose `count` points, each the farthest from all chosen before (REFERENCE §6.1).

    Follows the CUDA kernel of Pointnet2_PyTorch bit for bit as far as float32 without fused multiply-add
    goes. The first choice is index 0. Points with |p|² <= 1e-3 m² are never chosen after it. Among equally
    far points k the lowest (k mod T, k) wins, T = min(512, 2^floor(log2 N)) being the kernel's threads.

    Args:
        points: float32 `[N, 3]`, metres, N >= 1.
        count: how many to choose; beyond N, points repeat.

    Returns:
        int64 `[count]`, indices into `points` in the order of choice.
    """
    chosen = np.zeros(count, dtype=np.int64)
    candidates = _candidates(points)
    if len(candidates) == 0:
        return chosen
    x, y, z = (np.ascontiguousarray(points[candidates, axis]) for axis in range(3))
    nearest = np.full(len(candidates), 1e10, dtype=np.float32)
    last = points[0]
    for turn in range(1, count):
        np.minimum(nearest, _squared_distance(x, y, z, last), out=nearest)
        chosen[turn] = candidates[int(nearest.argmax())]
        last = points[chosen[turn]]
    return chosen


def _candidates(points: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Indices that may be chosen, in the order in which ties are resolved: argmax then does the rest."""
    threads = min(_MAX_THREADS, 1 << (len(points).bit_length() - 1))
    index = np.arange(len(points), dtype=np.int64)
    order = np.argsort(index % threads, kind="stable")
    x, y, z = (points[order, axis] for axis in range(3))
    squared_norm = _squared_distance(x, y, z, np.zeros(3, dtype=np.float32))
    return order[squared_norm.astype(np.float64) > _NEAR_ORIGIN]


def _squared_distance(x: _Column, y: _Column, z: _Column, centre: _Column) -> _Column:
    """(dx² + dy²) + dz² in float32, the kernel's order."""
    total = x - centre[0]
    total *= total
    for column, value in ((y, centre[1]), (z, centre[2])):
        step = column - value
        step *= step
        total += step
    return total


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
    _, index = cKDTree(points).query(centers, k=np.arange(1, size + 1), workers=-1)
    return np.asarray(index, dtype=np.int64)
