"""Position of the network's view over the sensor's image: the padded square, or the pose of a part.

Every pixel of the sensor's padded square has a position in the view. A map over the view is moved over the sensor by
interpolation at these positions. Where neighbouring pixels of the sensor are two or more view pixels apart, a pixel
takes the largest value around its position, so that no defect is lost between two positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.image.padding import pad_offset
from cmdiad_runtime.preprocess.views.part_pose import ImagePose, sensor_to_view
from cmdiad_runtime.preprocess.work.products import moments
from cmdiad_runtime.sample import Mask

_EVERY = 4
"""Rows of the sensor's map, of which one is looked at to measure how far apart its pixels are in the view."""
_ROUNDING = 1e-3

_Indices = npt.NDArray[np.int64]
Positions = npt.NDArray[np.floating]
"""Row and column in a view of each pixel of the sensor's padded square, `[2, size, size]`, view pixels."""


@dataclass(frozen=True)
class PaddedSquare:
    """Position of the padded square over the sensor's image.

    Attributes:
        height: Height of the sensor's image, pixels.
        width: Width of the sensor's image, pixels.
        top: Padding above the sensor's image, pixels.
        left: Padding to the left of the sensor's image, pixels.
        side: Side of the padded square, pixels.
    """

    height: int
    width: int
    top: int
    left: int
    side: int

    @staticmethod
    def of(image: npt.NDArray[Any], multiple: int) -> PaddedSquare:
        """Return the padded square of an image or cloud `[h, w, 3]`; see `pad_offset` for `multiple`."""
        height, width = image.shape[:2]
        top, left, side = pad_offset(height, width, multiple=multiple)
        return PaddedSquare(height, width, top, left, side)

    def sensor_pixels(self, size: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return row and column in the sensor's image of each pixel of the resized square.

        All pixels of a row have the same row, and all of a column the same column: float64 `[size, 1]`, `[1, size]`.
        """
        steps = (np.arange(size) + 0.5) * self.side / size - 0.5
        return (steps - self.top)[:, None], (steps - self.left)[None]


@dataclass(frozen=True)
class TopPlace:
    """Positions of the sensor's pixels in a top view.

    Attributes:
        pixels: Row and column of the part's points in the sensor's image, int64 `[2, N]`.
        target: Row and column of each point in the top view, float64 `[N, 2]`.
    """

    pixels: npt.NDArray[np.int64]
    target: npt.NDArray[np.float64]

    def to_sensor(self, anomaly_map: npt.NDArray[np.float32], square: PaddedSquare) -> npt.NDArray[np.float32]:
        """Resample a map over the top view onto the sensor's padded square, both float32 `[size, size]`."""
        return _map_at(anomaly_map, self.positions(square, len(anomaly_map)))

    def positions(self, square: PaddedSquare, size: int) -> Positions:
        """Return row and column in the view of each pixel of the sensor's padded square, float64 `[2, size, size]`.

        A pixel with a point has the position of that point. Other pixels, such as those of a hole, have the position
        given by the affine map that fits the points best.
        """
        middle, target = self.pixels.mean(axis=1), self.target.mean(axis=0)
        known = self.pixels.T - middle
        turn = np.linalg.pinv(moments(known, known)) @ moments(known, self.target - target)  # [2, 2]
        rows, columns = square.sensor_pixels(size)
        down, right = rows - middle[0], columns - middle[1]
        position = np.stack([turn[0, axis] * down + turn[1, axis] * right + target[axis] for axis in (0, 1)])
        point = np.full((square.height, square.width), -1, dtype=np.int32)
        point[self.pixels[0], self.pixels[1]] = np.arange(len(self.target))
        inside_rows, row = _nearest_inside(rows.ravel(), square.height)
        inside_columns, column = _nearest_inside(columns.ravel(), square.width)
        nearest = point[row].take(column, axis=1)
        measured = nearest >= 0
        position[:, inside_rows, inside_columns][:, measured] = self.target[nearest[measured]].T
        return position


def _nearest_inside(places: npt.NDArray[np.float64], length: int) -> tuple[slice, _Indices]:
    """Return the range of ascending places that lie inside the image along an axis, and the nearest pixel of each."""
    inside = np.flatnonzero((places > -0.5) & (places < length - 0.5))
    covered = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)
    return covered, np.rint(places[covered]).astype(np.int64)


@dataclass(frozen=True)
class PartPlace:
    """Pose of the part in the image that a part view was cut out of.

    Attributes:
        pose: Rotation and position of the part.
        side: Length of the view's edge, sensor pixels.
    """

    pose: ImagePose
    side: float

    def to_sensor(self, anomaly_map: npt.NDArray[np.float32], square: PaddedSquare) -> npt.NDArray[np.float32]:
        """Resample a map over the part view onto the sensor's padded square, both float32 `[size, size]`."""
        return _map_at(anomaly_map, self.positions(square, len(anomaly_map)))

    def positions(self, square: PaddedSquare, size: int) -> Positions:
        """Return row and column in the view of each pixel of the sensor's padded square, float64 `[2, size, size]`."""
        return np.stack(sensor_to_view(*square.sensor_pixels(size), self.pose, size=size, side=self.side))


@dataclass(frozen=True)
class SampledPlace:
    """Positions in a view that were computed before, of a sample that is kept for a comparison.

    Attributes:
        stored: Row and column in the view of each pixel of the sensor's padded square, float32 `[2, size, size]`.
    """

    stored: npt.NDArray[np.float32]

    def to_sensor(self, anomaly_map: npt.NDArray[np.float32], square: PaddedSquare) -> npt.NDArray[np.float32]:
        """Resample a map over the view onto the sensor's padded square, both float32 `[size, size]`."""
        return _map_at(anomaly_map, self.stored)

    def positions(self, square: PaddedSquare, size: int) -> Positions:
        """Return the stored positions."""
        return self.stored


def _map_at(anomaly_map: npt.NDArray[np.float32], positions: Positions) -> npt.NDArray[np.float32]:
    """Interpolate a map at positions `[2, size, size]`; beyond the edge of the map, return its minimum."""
    size = len(anomaly_map)
    inside = np.all((positions >= -0.5) & (positions <= size - 0.5), axis=0)
    reach = int(_spacing(positions, inside) / 2 + _ROUNDING)
    spread = scipy.ndimage.maximum_filter(anomaly_map, 2 * reach + 1) if reach else anomaly_map
    values = np.full(inside.shape, anomaly_map.min(), dtype=np.float32)
    values[inside] = scipy.ndimage.map_coordinates(spread, positions[:, inside], order=1, mode="nearest")
    return values


def region_at(region: Mask, positions: Positions) -> Mask:
    """Return the values of a region, bool `[size, size]`, at positions `[2, size, size]`; False beyond its edge.

    Unlike a map, a region is never spread to neighbours: what is ignored must not grow.
    """
    inside = np.all((positions >= -0.5) & (positions <= len(region) - 0.5), axis=0)
    values = scipy.ndimage.map_coordinates(region.astype(np.float32), positions, order=1, mode="nearest")
    return np.asarray(inside & (values > 0.5))


def _spacing(positions: Positions, inside: Mask) -> float:
    """Return the usual distance between the positions of neighbours in a row, view pixels; 0 without neighbours."""
    positions, inside = positions[:, ::_EVERY], inside[::_EVERY]
    both = inside[:, 1:] & inside[:, :-1]
    steps = np.hypot(*(positions[:, :, 1:] - positions[:, :, :-1]))[both]
    return float(np.median(steps)) if len(steps) else 0.0


Place = TopPlace | PartPlace
