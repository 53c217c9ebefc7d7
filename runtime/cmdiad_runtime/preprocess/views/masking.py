"""The inspection mask between the sensor's picture and the network's view.

The content of an ignored region is replaced by 0 in image inputs, as if there were no part. The region then has no
influence on score and map, not even through the receptive field of a patch outside the region; only pixels along the
border mix with their neighbours when the picture is resized, and views that follow the part look at all of the part to
find its direction. Inputs of a point encoder keep the points of the region, and its patches are ignored.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy
from PIL import Image

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.ignored_region import IgnoredRegion
from cmdiad_runtime.preprocess.image.padding import pad_to_square
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.part_pose import view_to_sensor
from cmdiad_runtime.preprocess.views.place import PartPlace, Place, TopPlace, region_at
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.sample import Mask, Sample

_IMAGES = ("surface", "xyz", "rgb")
"""Image inputs, in the order of the views of the modalities; `xyz` exists in the sensor view only."""
_NEAR = 3.0
"""View pixels: a pixel of the top view without a point this near takes no mask."""


def masked(prepared: Prepared, ignored: IgnoredRegion | None) -> Prepared:
    """Return the network inputs with 0 in the ignored region of images; the same inputs without a mask."""
    if ignored is None:
        return prepared
    inputs = dict(prepared.inputs)
    for number, name in enumerate(name for name in _IMAGES if name in inputs):
        kept = ~ignored.array[min(number, len(ignored.regions) - 1)]
        inputs[name] = inputs[name] * kept[None, :, :, None].astype(inputs[name].dtype)
    return replace(prepared, inputs=inputs)


def check_size(sample: Sample, preprocessing: Preprocessing) -> None:
    """Raise InputError if a mask is fixed over the picture and the sample has another size."""
    ignored, recorded = preprocessing.ignored, sample.xyz if sample.rgb is None else sample.rgb
    if ignored is None or preprocessing.view != "sensor" or recorded is None:
        return
    height, width = recorded.shape[:2]
    if (height, width) != (ignored.height, ignored.width):
        raise InputError(
            sample.name,
            found=f"a picture of {width} x {height} pixels",
            expected=f"{ignored.width} x {ignored.height} pixels, the size of the inspection mask",
            action="set the sensor to this size, or train again with a mask for the new size",
            reason="image-size",
        )


def over_sensor(prepared: Prepared, ignored: IgnoredRegion) -> Mask:
    """Return the ignored pixels of the sensor's padded square, bool `[size, size]`; in every view of the sample."""
    regions = ignored.array
    if not prepared.places:
        return np.asarray(regions.all(axis=0))
    places = prepared.places * len(regions) if len(prepared.places) == 1 else prepared.places
    pairs = zip(places, regions, strict=True)
    return np.all([region_at(region, p.positions(prepared.square, ignored.size)) for p, region in pairs], axis=0)


def regions_in_view(mask: Mask, prepared: Prepared, preprocessing: Preprocessing) -> list[Mask]:
    """Return a mask over the sensor's picture as regions of the view, bool `[size, size]` each.

    In the sensor view a pixel is ignored if the mask covers all of it. In other views the mask moves with the part.

    Args:
        mask: Ignored pixels of the sample's picture, bool `[h, w]`.
        prepared: Network inputs of the sample.
        preprocessing: Settings of the view.
    """
    if not prepared.places:
        square = pad_to_square(mask.astype(np.uint8) * np.uint8(255), multiple=preprocessing.pad_multiple)
        resized = Image.fromarray(square).resize((preprocessing.size,) * 2, Image.Resampling.BOX)
        return [np.asarray(resized) == 255]
    return [_in_view(mask, place, preprocessing.size) for place in prepared.places]


def _in_view(mask: Mask, place: Place, size: int) -> Mask:
    if isinstance(place, PartPlace):
        return _in_part_view(mask, place, size)
    return _in_top_view(mask, place, size)


def _in_part_view(mask: Mask, place: PartPlace, size: int) -> Mask:
    source = view_to_sensor(place.pose, size=size, side=place.side)
    return np.asarray(scipy.ndimage.map_coordinates(mask.astype(np.float32), source, order=1) > 0.5)


def _in_top_view(mask: Mask, place: TopPlace, size: int) -> Mask:
    """Return the region whose nearest points are ignored."""
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    tree = scipy.spatial.cKDTree(place.target)
    distance, nearest = tree.query(np.stack([rows, columns], axis=2).reshape(-1, 2), distance_upper_bound=_NEAR)
    of_point = np.append(mask[place.pixels[0], place.pixels[1]], False)  # the last entry stands for no point
    return np.asarray((of_point[nearest] & np.isfinite(distance)).reshape(size, size))
