"""The support plane of an organised cloud, found by RANSAC on the rim of the image (method §2.1-2.2).

The constants are those of the published preprocessing of MVTec 3D-AD, after Open3D's `segment_plane`. There are two
deliberate differences: the search is seeded, and a cloud whose rim shows no plane (already preprocessed, or no
support in view) has no support plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.cloud.valid import valid_mask
from cmdiad_runtime.preprocess.work.pieces import parts, share
from cmdiad_runtime.preprocess.work.products import moments
from cmdiad_runtime.sample import XyzImage

_Points = npt.NDArray[np.float64]
_Index = npt.NDArray[np.int64]

_RIM = 10  # pixels
_INLIER_DISTANCE = 0.004  # metres
_HYPOTHESES = 1000
_MIN_BORDER_POINTS = 50
_MIN_BORDER_SHARE = 0.5
_RANSAC_POINTS = 2000
_RANSAC_CHUNK = 50  # hypotheses of a thread at a time


@dataclass(frozen=True)
class Plane:
    """A plane `normal · p + offset = 0`.

    Attributes:
        normal: Unit normal, float64 `[3]`, on the sensor's side of the plane (`offset` >= 0).
        offset: Distance of the sensor origin from the plane, metres.
    """

    normal: npt.NDArray[np.float64]
    offset: float

    def distance(self, xyz: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Return the unsigned distances of points `[..., 3]` from the plane, float64 `[...]`, metres."""
        a, b, c = (float(component) for component in self.normal)
        gap = a * xyz[..., 0].astype(np.float64)
        gap += b * xyz[..., 1].astype(np.float64)
        gap += c * xyz[..., 2].astype(np.float64)
        gap += self.offset
        return np.abs(gap, out=gap)


def fit_support_plane(xyz: XyzImage, *, seed: int) -> Plane | None:
    """Find the plane that the part lies on, from the rim of the image (method §2.1-2.2).

    RANSAC with three-point hypotheses, counted on at most 2000 of the rim's points, then least squares
    through the inliers among all of them. The result depends on `xyz` and `seed` only.

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, metres.
        seed: Seed of the random draws, a non-negative integer.

    Returns:
        The plane, or None if the rim has fewer than 50 points (an already preprocessed cloud) or if no plane
        contains at least half of them.
    """
    points = border_points(xyz)
    if len(points) < _MIN_BORDER_POINTS:
        return None
    rough = _best_hypothesis(points, np.random.default_rng(seed))
    if rough is None:
        return None
    plane = _least_squares_plane(points[rough.distance(points) < _INLIER_DISTANCE])
    share = np.count_nonzero(plane.distance(points) < _INLIER_DISTANCE) / len(points)
    return plane if share >= _MIN_BORDER_SHARE else None


def border_points(xyz: XyzImage) -> npt.NDArray[np.float64]:
    """Return the valid points of the first and last rows and columns, corner points twice (method §2.1).

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, metres.

    Returns:
        float64 `[B, 3]`, metres.
    """
    strips = (xyz[:_RIM], xyz[-_RIM:], xyz[:, :_RIM], xyz[:, -_RIM:])
    return np.concatenate([strip[valid_mask(strip)] for strip in strips]).astype(np.float64)


def _best_hypothesis(points: _Points, rng: np.random.Generator) -> Plane | None:
    """Return the three-point plane with the most inliers, or None if all triples are collinear."""
    if len(points) > _RANSAC_POINTS:
        points = points[rng.choice(len(points), _RANSAC_POINTS, replace=False)]
    centre = points.mean(axis=0)
    local = points - centre
    a, b, c = local[rng.integers(0, len(local), size=(3, _HYPOTHESES))]  # each [I, 3]
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    proper = length > 1e-12
    if not proper.any():
        return None
    normals = normals[proper] / length[proper, None]
    offsets = -(normals * a[proper]).sum(axis=1)
    best = int(np.argmax(_count_inliers(local, normals, offsets)))
    return _oriented(normals[best], float(offsets[best] - normals[best] @ centre))


def _count_inliers(points: _Points, normals: _Points, offsets: _Points) -> _Index:
    """Count the points within `_INLIER_DISTANCE` of each plane, int64 `[I]`.

    The first plane that contains all points ends the count: no later one contains more. Planes that are not counted
    have 0. The distances are computed without a matrix product, so the counts do not depend on the BLAS library.
    """
    x, y, z = (np.ascontiguousarray(column, dtype=np.float32) for column in points.T)
    planes = np.concatenate([normals, offsets[:, None]], axis=1).astype(np.float32)  # [I, 4]
    counts = np.zeros(len(planes), dtype=np.int64)

    def count(part: slice) -> None:
        hypotheses = planes[part]
        gap = hypotheses[:, :1] * x
        gap += hypotheses[:, 1:2] * y
        gap += hypotheses[:, 2:3] * z
        gap += hypotheses[:, 3:]
        np.abs(gap, out=gap)
        counts[part] = np.count_nonzero(gap < _INLIER_DISTANCE, axis=1)

    for turn in parts(len(planes), 2 * _RANSAC_CHUNK):
        share(
            partial(count, slice(first, first + _RANSAC_CHUNK)) for first in range(turn.start, turn.stop, _RANSAC_CHUNK)
        )
        if counts[turn].max() == len(points):
            break
    return counts


def _least_squares_plane(points: _Points) -> Plane:
    """Fit the plane of least squared distances: through the mean, normal to the direction of least variance."""
    centre = points.mean(axis=0)
    local = points - centre
    normal = np.linalg.eigh(moments(local, local))[1][:, 0]
    return _oriented(normal, float(-normal @ centre))


def _oriented(normal: _Points, offset: float) -> Plane:
    """Return the plane with its normal on the sensor's side."""
    return Plane(normal, offset) if offset >= 0 else Plane(-normal, -offset)
