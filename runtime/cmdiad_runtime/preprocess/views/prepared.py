"""The network inputs of a sample, and their position over the sensor's image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.views.place import PaddedSquare, Place


@dataclass(frozen=True)
class Prepared:
    """Network inputs by name, and their position over the sensor's image.

    Attributes:
        inputs: Inputs of the cloud first, then of the image. An image is `rgb`, uint8 `[1, size, size, 3]`, RGB order.
            Points are `centers` float32 `[1, G, 3]`, `groups` float32 `[1, G, M, 3]`, `weights` float32 `[R, G]` and
            `cells` int64 `[grid²]` (see `CloudInput`). A surface image is `surface` float32 `[1, size, size, 3]`,
            0-255 (see `surface_image`). With `xyz_image` there is also `xyz` float32 `[1, size, size, 3]`, metres.
        square: Padded square of the sensor's image.
        places: Position of the part, in views that follow the part: one for all inputs, or one for each modality in
            the order of `inputs`; empty in the sensor view.
    """

    inputs: dict[str, npt.NDArray[Any]]
    square: PaddedSquare
    places: tuple[Place, ...] = ()

    def to_sensor(self, anomaly_map: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the graph's map over the sensor's padded square, float32 `[size, size]`.

        Args:
            anomaly_map: Map over the network's view, float32 `[size, size]`. If each modality has its own view, one
                map for each, float32 `[maps, size, size]`; the resampled maps are added.
        """
        if anomaly_map.ndim == 2:
            return self.each_to_sensor(anomaly_map[None])[0]
        return np.asarray(self.each_to_sensor(anomaly_map).sum(axis=0))

    def each_to_sensor(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return maps `[maps, size, size]` over their views as maps over the sensor's padded square, same shape."""
        if not self.places:
            return maps
        places = self.places * len(maps) if len(self.places) == 1 else self.places
        pairs = zip(places, maps, strict=True)
        return np.stack([place.to_sensor(anomaly_map, self.square) for place, anomaly_map in pairs])
