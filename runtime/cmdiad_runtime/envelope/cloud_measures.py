"""Measures of the recording conditions of an organised cloud: points, pitch, noise, axes, support plane and holes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.envelope.image_measures import NOISE_DIFFERENCE
from cmdiad_runtime.preprocess.cloud.foreground import PLANE_CLEARANCE
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.sample import Mask, XyzImage

LINES = 32
"""Largest number of rows, and of columns, along which neighbours are compared."""
_COUNTED_HOLE = 4e-6
"""Square metres: smaller holes are gaps of the measurement, as sensors have them at edges and glare."""
_SPARSE = 64  # rows and columns of the points whose extent is measured
_LEAST_STEPS = 20
_REACH = 0.995  # share of the points within the extent
_TOP = 0.95  # share of the points of the part below its height

_Float = npt.NDArray[np.float32]


def measure_cloud(geometry: PartGeometry) -> dict[str, float]:
    """Return the measures of a cloud that need neither support plane nor part, by name.

    A measure is NaN if the cloud has too few points for it.

    Args:
        geometry: Geometry of the sample; `valid` is computed.
    """
    xyz, valid = geometry.xyz, geometry.valid
    values = {"valid": float(np.count_nonzero(valid) / valid.size)}
    rows, columns = _every(valid.shape[0], LINES), _every(valid.shape[1], LINES)
    values |= _direction("column", _steps(xyz[rows], valid[rows]))
    values["depth_noise"] = _noise(xyz[rows, :, 2], valid[rows])
    down = np.swapaxes(xyz[:, columns], 0, 1), np.swapaxes(valid[:, columns], 0, 1)
    values |= _direction("row", _steps(*down))
    sparse = _every(valid.shape[0], _SPARSE), _every(valid.shape[1], _SPARSE)
    return values | _extent(xyz[sparse][valid[sparse]])


def measure_part(geometry: PartGeometry, pixel_area: float) -> dict[str, float]:
    """Return the measures of the support plane and of the part, by name.

    Args:
        geometry: Geometry of the sample; the support plane is searched only if the background is removed.
        pixel_area: Area of a pixel on the part, square metres.

    Raises:
        InputError: The cloud has no point or no part; see `PartGeometry.part`.
    """
    values = {}
    plane = geometry.support if geometry.removes_background else None
    if geometry.removes_background:
        values["plane"] = float(plane is not None)
    if plane is not None:
        x, y, _ = map(float, plane.normal)
        values |= {"plane_distance": plane.offset, "plane_x": x, "plane_y": y}
    part = geometry.part
    box = _box(part)
    regions = scipy.ndimage.label(~np.pad(part[box], 1))[0]
    outside, regions = regions[0, 0], regions[1:-1, 1:-1]
    enclosed = (regions != outside) & ~part[box]
    detached = enclosed & geometry.valid[box]
    area = np.count_nonzero(part)
    missing = enclosed & ~detached
    values["holes"] = float(np.count_nonzero(missing) / area)
    sizes = np.bincount(regions[missing], minlength=1) * pixel_area
    values["largest_hole"] = float(sizes.max())
    values["hole_count"] = float(np.count_nonzero(sizes > _COUNTED_HOLE))
    if plane is not None:
        detached[detached] = plane.distance(geometry.xyz[box][detached]) >= PLANE_CLEARANCE
        values["part_height"] = _quantile(plane.distance(geometry.xyz[part]), _TOP)
    values["detached"] = float(np.count_nonzero(detached)) * pixel_area
    return values


def _every(length: int, lines: int) -> slice:
    """Return at most `lines` indices at equal steps, the first one half a step from the edge."""
    step = -(-length // lines)
    return slice(step // 2, None, step)


def _steps(xyz: XyzImage, valid: Mask) -> _Float:
    """Return the vectors between neighbouring points along lines `[lines, points, 3]`, float32 `[3, N]`."""
    both = valid[:, 1:] & valid[:, :-1]
    with np.errstate(invalid="ignore", over="ignore"):  # Infinity marks missing points, which `both` excludes.
        change = xyz[:, 1:] - xyz[:, :-1]
    return np.stack([change[..., axis][both] for axis in range(3)])


def _direction(name: str, steps: _Float) -> dict[str, float]:
    """Return length and direction of the median step; NaN with too few steps."""
    step = np.median(steps, axis=1) if steps.shape[1] >= _LEAST_STEPS else np.full(3, np.nan)
    length = float(np.linalg.norm(step.astype(np.float64)))
    direction = step / length if length > 0 else np.full(3, np.nan)
    x, y, z = map(float, direction)
    return {f"{name}_pitch": length, f"{name}_x": x, f"{name}_y": y, f"{name}_z": z}


def _noise(depth: _Float, valid: Mask) -> float:
    """Return the deviation of the noise of z along lines `[lines, points]`, see the noise of images; NaN if unknown."""
    known = valid[:, 2:] & valid[:, 1:-1] & valid[:, :-2]
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(depth[:, 2:] - 2 * depth[:, 1:-1] + depth[:, :-2])[known]
    half = len(change) // 2
    if half < _LEAST_STEPS:
        return float("nan")
    return float(np.partition(change, half)[:half].mean(dtype=np.float64) / NOISE_DIFFERENCE)


def _extent(points: _Float) -> dict[str, float]:
    if len(points) < _LEAST_STEPS:
        return {"away": np.nan, "depth": np.nan, "reach": np.nan}
    middle = np.median(points, axis=0)
    distance = np.abs(points - middle).max(axis=1)
    return {
        "away": float(np.count_nonzero(points[:, 2] > 0) / len(points)),
        "depth": float(middle[2]),
        "reach": _quantile(distance, _REACH),
    }


def _quantile(values: npt.NDArray[np.floating[Any]], share: float) -> float:
    """Return the value that this share of the values `[n]` does not exceed, without interpolation."""
    rank = int(share * (len(values) - 1))
    return float(np.partition(values, rank)[rank])


def _box(part: Mask) -> tuple[slice, slice]:
    """Return the rows and columns that contain a mask with at least one pixel."""
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
