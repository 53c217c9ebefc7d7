"""Numbers that sensors write for points that they did not measure.

Zeros, NaN and infinity are the usual ones. Some sensors write a large number instead (1e8, 1e30, the largest float,
65.535 for 65535 mm), or a point that is the same in all such pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.sample import Mask, XyzImage

FARTHEST_METRES = 50.0
"""Largest coordinate of a point in metres. No inspection sensor reaches farther."""

_REPEATED = 16
"""Pixels with the same number from which on the number is no measurement, if nothing else explains it."""
_FAR = 3.0
"""A repeated distance is no measurement if it is this many times the largest other distance."""


def within_reach(coordinate: npt.NDArray[np.floating]) -> Mask:
    """Return True where a coordinate is finite and at most FARTHEST_METRES, bool of the same shape."""
    return np.asarray(np.abs(coordinate) <= FARTHEST_METRES, dtype=np.bool_)  # False for NaN


def without_missing_numbers(xyz: XyzImage) -> XyzImage:
    """Return a cloud with zeros in place of numbers that stand for missing points.

    These are points with a finite coordinate beyond FARTHEST_METRES, and the nearest or farthest point of the cloud
    if at least 16 pixels repeat it exactly: in all coordinates, or in z at three times the distance of all others.

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, metres. Zeros, NaN and infinity may mark missing points too.

    Returns:
        The same array if there is no such number, else a copy, float32 `[h, w, 3]`.
    """
    near = within_reach(xyz)  # [h, w, 3]
    z = np.ascontiguousarray(xyz[..., 2])
    if near.all() and not _extremes(z[z != 0]):
        return xyz  # Most clouds end here.
    missing = np.asarray((~near & np.isfinite(xyz)).any(axis=2))
    measured = near.all(axis=2) & (xyz != 0).all(axis=2)
    for value in _extremes(z[measured]):
        missing |= _repeated(xyz, measured, value)
    return np.where(missing[..., None], np.float32(0), xyz) if missing.any() else xyz


def _extremes(z: npt.NDArray[np.float32]) -> list[np.float32]:
    """Return the smallest and the largest value that occur often enough to stand for missing points."""
    if z.size == 0:
        return []
    return [value for value in (z.min(), z.max()) if np.count_nonzero(z == value) >= _REPEATED]


def _repeated(xyz: XyzImage, measured: Mask, value: np.float32) -> Mask:
    """Return the pixels at the distance `value` if they are no measurements, bool `[h, w]`, else all False."""
    same = measured & (xyz[..., 2] == value)
    others = np.abs(xyz[..., 2][measured & ~same])
    if not others.size:  # Nothing to compare with: the preparation refuses a cloud of one point.
        return np.zeros_like(same)
    if abs(value) >= _FAR * others.max():
        return same
    _, kinds, counts = np.unique(xyz[same], axis=0, return_inverse=True, return_counts=True)
    repeated = np.zeros_like(same)
    repeated[same] = counts[kinds.reshape(-1)] >= _REPEATED
    return repeated
