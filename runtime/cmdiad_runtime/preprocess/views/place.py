"""Where the network's view lies over the sensor's image: the padded square, and the place of a part that it follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.cloud.foreground import pad_offset
from cmdiad_runtime.preprocess.views.part_view import ImagePose, to_view
from cmdiad_runtime.preprocess.work.products import moments, times


@dataclass(frozen=True)
class View:
    """Where the network's square view lies over the sensor's image.

    Attributes:
        height: of the sensor's image, pixels.
        width: of the sensor's image, pixels.
        top: padding above it.
        left: padding left of it.
        side: of the padded square.
    """

    height: int
    width: int
    top: int
    left: int
    side: int

    @staticmethod
    def of(image: npt.NDArray[Any], multiple: int) -> View:
        """The view of an image or cloud `[h, w, 3]`, padded to a square."""
        height, width = image.shape[:2]
        top, left, side = pad_offset(height, width, multiple=multiple)
        return View(height, width, top, left, side)

    def sensor_pixels(self, size: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Row and column in the sensor's image of each pixel of the view at `size`, both `[size, size]`."""
        steps = (np.arange(size) + 0.5) * self.side / size - 0.5
        rows, columns = np.meshgrid(steps - self.top, steps - self.left, indexing="ij")
        return rows, columns


@dataclass(frozen=True)
class PlanPlace:
    """Where the pixels of the sensor's image lie in a plan view.

    Attributes:
        pixels: int64 `[2, N]`, row and column of the part's points in the sensor's image.
        target: float64 `[N, 2]`, row and column of each in the plan view.
    """

    pixels: npt.NDArray[np.int64]
    target: npt.NDArray[np.float64]

    def to_sensor(self, anomaly_map: npt.NDArray[np.float32], view: View) -> npt.NDArray[np.float32]:
        """A map over the plan view as one over the sensor's padded square, both float32 `[size, size]`.

        A pixel with a point takes the map's value at that point. The others, such as a hole's, take it where the
        affine map that fits the points best puts them.
        """
        middle, target = self.pixels.mean(axis=1), self.target.mean(axis=0)
        known = self.pixels.T - middle
        turn = np.linalg.pinv(moments(known, known)) @ moments(known, self.target - target)  # [2, 2]
        rows, columns = view.sensor_pixels(len(anomaly_map))
        sensor = np.stack([rows, columns], axis=2).reshape(-1, 2) - middle
        place = (times(sensor, turn) + target).reshape(*rows.shape, 2)
        exact = np.full((view.height, view.width, 2), np.nan)
        exact[self.pixels[0], self.pixels[1]] = self.target
        inside = (rows > -0.5) & (rows < view.height - 0.5) & (columns > -0.5) & (columns < view.width - 0.5)
        found = exact[np.rint(rows[inside]).astype(int), np.rint(columns[inside]).astype(int)]
        place[inside] = np.where(np.isnan(found), place[inside], found)
        return _map_at(anomaly_map, place[..., 0], place[..., 1])


@dataclass(frozen=True)
class ImagePlace:
    """Where the part lay in an image, for a view that was cut out of it.

    Attributes:
        pose: the part's turn and place.
        side: length of the view's edge, sensor pixels.
    """

    pose: ImagePose
    side: float

    def to_sensor(self, anomaly_map: npt.NDArray[np.float32], view: View) -> npt.NDArray[np.float32]:
        """A map over the cut-out as one over the sensor's padded square, both float32 `[size, size]`."""
        size = len(anomaly_map)
        return _map_at(anomaly_map, *to_view(*view.sensor_pixels(size), self.pose, size=size, side=self.side))


def _map_at(
    anomaly_map: npt.NDArray[np.float32], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """A map's values at places between its pixels, its least value beyond its edge."""
    size = len(anomaly_map)
    values = scipy.ndimage.map_coordinates(anomaly_map, [rows, columns], order=1, mode="nearest")
    beyond = (rows < -0.5) | (rows > size - 0.5) | (columns < -0.5) | (columns > size - 0.5)
    return np.where(beyond, anomaly_map.min(), values).astype(np.float32)


Place = PlanPlace | ImagePlace
