"""The network inputs of a sample, and the position of their views over the sensor's image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.views.part_pose import ImagePose
from cmdiad_runtime.preprocess.views.place import PaddedSquare, PartPlace, Place, SampledPlace
from cmdiad_runtime.preprocess.work.pieces import share

_SQUARE = "square"
_PLACE = "place-"
_MOST_PLACES = 2


@dataclass(frozen=True)
class Placement:
    """Position of the views of a sample over the sensor's image.

    Attributes:
        square: Padded square of the sensor's image.
        places: Position of the part, in views that follow the part: one for all maps, or one for each map; empty in
            the sensor view.
    """

    square: PaddedSquare
    places: tuple[Place | SampledPlace, ...] = ()

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
        moves = [partial(place.to_sensor, one, self.square) for place, one in zip(places, maps, strict=True)]
        return np.stack(share(moves))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return True if maps of a shape, `[size, size]` or `[maps, size, size]`, can be moved over the sensor."""
        maps = shape[0] if len(shape) == 3 else 1
        stored = [place.stored.shape[1:] for place in self.places if isinstance(place, SampledPlace)]
        return len(self.places) in (0, 1, maps) and all(sampled == shape[-2:] for sampled in stored)

    def sampled(self, size: int) -> Placement:
        """Return this placement for maps of one size, in a form that `to_arrays` can store."""
        kept = [p if isinstance(p, PartPlace) else _sampled(p, self.square, size) for p in self.places]
        return Placement(self.square, tuple(kept))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return a placement of `sampled` as arrays by name, to be stored with the network inputs of a sample.

        `square` is int64 `[5]`. `place-0`, and with two views `place-1`, are float64 `[4]` (angle, x, y and side of a
        part in the image) or float32 `[2, size, size]` (positions of the sensor's pixels).
        """
        arrays: dict[str, npt.NDArray[Any]] = {_SQUARE: np.array(astuple(self.square), dtype=np.int64)}
        for i, place in enumerate(self.places):
            if isinstance(place, PartPlace):
                arrays[f"{_PLACE}{i}"] = np.array([*astuple(place.pose), place.side], dtype=np.float64)
            else:
                assert isinstance(place, SampledPlace)
                arrays[f"{_PLACE}{i}"] = place.stored
        return arrays

    @staticmethod
    def from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> Placement:
        """Return the placement of `to_arrays`.

        Raises:
            ValueError: An array is missing, or has another type or shape, or numbers that are not finite.
        """
        square = arrays.get(_SQUARE)
        if square is None or square.dtype != np.int64 or square.shape != (5,) or (square < 0).any():
            raise ValueError("no padded square of five whole numbers")
        places = tuple(_stored_place(arrays[name]) for name in sorted(arrays) if name.startswith(_PLACE))
        if not 1 <= len(places) <= _MOST_PLACES:
            raise ValueError(f"{len(places)} places")
        return Placement(PaddedSquare(*map(int, square)), places)


def _sampled(place: Place | SampledPlace, square: PaddedSquare, size: int) -> SampledPlace:
    return SampledPlace(place.positions(square, size).astype(np.float32))


def _stored_place(array: npt.NDArray[Any]) -> PartPlace | SampledPlace:
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise ValueError("a place that is not finite numbers")
    if array.shape == (4,) and array[3] > 0:
        return PartPlace(ImagePose(*map(float, array[:3])), float(array[3]))
    if array.ndim == 3 and array.shape[0] == 2 and array.shape[1] == array.shape[2]:
        return SampledPlace(array)
    raise ValueError(f"a place of shape {list(array.shape)}")


@dataclass(frozen=True)
class Prepared:
    """Network inputs by name, and the position of their views over the sensor's image.

    Attributes:
        inputs: Inputs of the cloud first, then of the image. An image is `rgb`, uint8 `[1, size, size, 3]`, RGB order.
            Points are `centers` float32 `[1, G, 3]`, `groups` float32 `[1, G, M, 3]`, `weights` float32 `[R, G]` and
            `cells` int64 `[grid²]` (see `CloudInput`). Patches are `patches` float32 `[1, P, M, 3]` and `cover` int32
            `[1, size, size, K]` (see `PatchInput`). A surface image is `surface` float32 `[1, size, size, 3]`,
            0-255 (see `surface_image`). With `xyz_image` there is also `xyz` float32 `[1, size, size, 3]`, metres.
        square: Padded square of the sensor's image.
        places: Position of the part, in views that follow the part: one for all inputs, or one for each modality in
            the order of `inputs`; empty in the sensor view.
    """

    inputs: dict[str, npt.NDArray[Any]]
    square: PaddedSquare
    places: tuple[Place, ...] = ()

    @property
    def placement(self) -> Placement:
        """Return the position of the views over the sensor's image."""
        return Placement(self.square, self.places)

    def to_sensor(self, anomaly_map: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the graph's map over the sensor's padded square; see `Placement.to_sensor`."""
        return self.placement.to_sensor(anomaly_map)

    def each_to_sensor(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return maps over their views as maps over the sensor's padded square; see `Placement.each_to_sensor`."""
        return self.placement.each_to_sensor(maps)
