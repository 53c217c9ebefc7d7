"""Position of the network's view over the sensor's image: the padded square, or the pose of a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.image.padding import pad_offset
from cmdiad_runtime.preprocess.views.part_pose import ImagePose, sensor_to_view
from cmdiad_runtime.preprocess.work.products import moments, times


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
        """Return row and column in the sensor's image of each pixel of the resized square, `[size, size]` each."""
        steps = (np.arange(size) + 0.5) * self.side / size - 0.5
        rows, columns = np.meshgrid(steps - self.top, steps - self.left, indexing="ij")
        return rows, columns


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
        """Resample a map over the top view onto the sensor's padded square, both float32 `[size, size]`.

        A pixel with a point takes the map's value at that point. Other pixels, such as those of a hole, take the value
        at the position given by the affine map that fits the points best.
        """
        middle, target = self.pixels.mean(axis=1), self.target.mean(axis=0)
        known = self.pixels.T - middle
        turn = np.linalg.pinv(moments(known, known)) @ moments(known, self.target - target)  # [2, 2]
        rows, columns = square.sensor_pixels(len(anomaly_map))
        sensor = np.stack([rows, columns], axis=2).reshape(-1, 2) - middle
        position = (times(sensor, turn) + target).reshape(*rows.shape, 2)
        exact = np.full((square.height, square.width, 2), np.nan)
        exact[self.pixels[0], self.pixels[1]] = self.target
        inside = (rows > -0.5) & (rows < square.height - 0.5) & (columns > -0.5) & (columns < square.width - 0.5)
        measured = exact[np.rint(rows[inside]).astype(int), np.rint(columns[inside]).astype(int)]
        position[inside] = np.where(np.isnan(measured), position[inside], measured)
        return _map_at(anomaly_map, position[..., 0], position[..., 1])


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
        size = len(anomaly_map)
        return _map_at(anomaly_map, *sensor_to_view(*square.sensor_pixels(size), self.pose, size=size, side=self.side))


def _map_at(
    anomaly_map: npt.NDArray[np.float32], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Interpolate a map at positions between its pixels; beyond the edge of the map, return its minimum."""
    size = len(anomaly_map)
    values = scipy.ndimage.map_coordinates(anomaly_map, [rows, columns], order=1, mode="nearest")
    beyond = (rows < -0.5) | (rows > size - 0.5) | (columns < -0.5) | (columns > size - 0.5)
    return np.where(beyond, anomaly_map.min(), values).astype(np.float32)


Place = TopPlace | PartPlace
