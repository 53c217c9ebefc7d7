"""Shared parts of the readers of clouds: missing points, units, and the size of the grid."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.readers._files import FilePath, check_points
from cmdiad_runtime.sample import XyzImage
from cmdiad_runtime.support.missing_points import FARTHEST_METRES, within_reach, without_missing_numbers

_logger = logging.getLogger("cmdiad.readers")


def finish_cloud(
    path: FilePath,
    points: npt.NDArray[np.floating[Any]],
    *,
    if_millimetres: str = "divide them by 1000 before saving",
) -> XyzImage:
    """Convert points to the form that every reader returns.

    Args:
        path: File, for messages.
        points: float32 or float64 `[h, w, 3]`, as stored.
        if_millimetres: Remedy for points in millimetres.

    Returns:
        float32 `[h, w, 3]` x y z in metres, three zeros for a missing point; see `without_missing_numbers` for large
        numbers that stand for missing points.

    Raises:
        InputError: The median distance shows that the points are in millimetres.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cloud = np.array(points, dtype=np.float32, order="C")
    finite = np.isfinite(cloud)
    cloud[~(finite[..., 0] & finite[..., 1] & finite[..., 2])] = 0.0  # Much faster than `all` over three numbers.
    _check_metres(path, cloud, if_millimetres)
    cleaned = without_missing_numbers(cloud)
    if cleaned is not cloud:
        changed = np.count_nonzero((cleaned != cloud).any(axis=-1))
        _logger.info("%s: %d points with numbers that stand for missing points", printable(path), changed)
    return cleaned


def check_grid(path: FilePath, height: int, width: int, cells: int, *, expected: str) -> None:
    """Check the size of a grid from a header.

    Args:
        path: File, for messages.
        height: Rows of the grid.
        width: Columns of the grid.
        cells: Number of points in the file.
        expected: Description of a correct file.

    Raises:
        InputError: The grid has one row or one column, has more points than `sizes.MAX_POINTS`, or does not have
            `cells` points.
    """
    if min(height, width) < 2:
        raise unorganised(path, f"one row of {max(height, width)} points", expected=expected)
    check_points(path, height, width)
    if height * width != cells:
        raise InputError(
            path,
            found=f"{cells} points for a grid of {width}×{height}",
            expected=expected,
            action="save every point of the grid, including missing points (as zeros or NaN)",
        )


def unorganised(path: FilePath, what: str, *, expected: str, otherwise: str = "") -> InputError:
    """Return the error for a cloud without rows and columns.

    Args:
        path: File, for the message.
        what: Details of the cloud.
        expected: Description of a correct file.
        otherwise: Further text for the remedy.
    """
    action = "set the sensor's software to save an organised (ordered, structured) cloud"
    return InputError(
        path, found=f"an unorganised cloud ({what})", expected=expected, action=action + otherwise, reason="unsupported"
    )


def _check_metres(path: FilePath, points: XyzImage, if_millimetres: str) -> None:
    """Refuse points in millimetres; large numbers that stand for missing points do not count."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    valid = (x != 0) & (y != 0) & (z != 0)  # [h, w]
    near = valid & within_reach(x) & within_reach(y) & within_reach(z)
    if 2 * np.count_nonzero(near) >= np.count_nonzero(valid):
        return
    distances = np.abs(points[valid]).max(axis=-1)
    distances = distances[distances < 1000 * FARTHEST_METRES]
    if distances.size:
        others = distances[distances != distances.max()]
        distances = others if others.size else distances
    if distances.size and (distance := float(np.median(distances))) > FARTHEST_METRES:
        raise InputError(
            path,
            found=f"points at a median distance of {distance:.6g}",
            expected="coordinates in metres",
            action=f"the values are surely millimetres: {if_millimetres}",
            reason="unsupported",
        )
