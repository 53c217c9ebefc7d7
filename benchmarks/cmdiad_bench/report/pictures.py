"""Draw one inspected sample as data URIs: the sensors' pictures, the heatmap, and the place that decided."""

from __future__ import annotations

import base64
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.marks import ringed
from cmdiad_runtime.inspection.overlay import anomaly_overlay, depth_image, largest_place
from cmdiad_runtime.names import MODALITIES
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.readers import image_colour, read_rgb, read_xyz
from cmdiad_runtime.readers.image import is_grey16
from cmdiad_runtime.sample import Mask, RgbImage
from cmdiad_train.datasets import Category, SampleFiles

_SIDE = 336
"""Pixels along the longer side: the width on the page, with a margin for dense screens."""
_DETAIL = 0.25
"""Sides of a detail, as a share of the sides of the picture."""
_LEAST_DETAIL = 48
"""Least side of a detail, in pixels of the picture."""
_JPEG_QUALITY, _DEPTH_QUALITY = 82, 60
"""Quality of pictures, and of depth images, whose missing points would make large files."""
_OUTLINE = np.array([0, 230, 255], dtype=np.uint8)
"""Cyan, a colour that occurs neither on parts nor in heatmaps."""
_GREY = 96


@dataclass(frozen=True)
class Pictures:
    """Data URIs of one sample; None if there is no such picture.

    Attributes:
        image: Camera image, with the outline of the defect.
        depth: Cloud as a depth image, with the outline of the defect.
        heatmap: Inspected picture with the anomaly map, on the colour scale fixed by the threshold, and a ring around
            the largest value.
        detail: Surroundings of the largest value, enlarged and without heat.
        outlined: True if the outline of a defect is drawn.
    """

    image: str | None
    depth: str | None
    heatmap: str
    detail: str
    outlined: bool


def find_companions(category: Category, preprocessing: Preprocessing) -> dict[str, SampleFiles]:
    """Return test samples with the files of the modality that a bundle does not read, by sample name.

    The files are only displayed, so problems with them are not errors.
    """
    unread = [modality for modality in MODALITIES if modality not in preprocessing.modalities]
    return {files.name: files for modality in unread for files in category.listing("test", (modality,)).samples}


def draw_pictures(
    files: SampleFiles,
    companion: SampleFiles | None,
    mask: Mask | None,
    anomaly_map: npt.NDArray[np.float32],
    preprocessing: Preprocessing,
    map_threshold: float,
) -> Pictures:
    """Read the files of a sample again and draw them.

    Args:
        files: Files of the sample.
        companion: The same sample with the file that the bundle does not read, from `find_companions`.
        mask: Ground truth, bool `[size, size]` in the network's view; None if unknown.
        anomaly_map: Anomaly map, float32 `[size, size]`.
        preprocessing: Preprocessing of the bundle.
        map_threshold: Map values above this threshold are drawn as anomalous.
    """
    image = _show_image(files.rgb or (companion.rgb if companion else None), preprocessing.colour)
    depth = _show_depth(files.xyz or (companion.xyz if companion else None))
    inspected = image if files.rgb is not None else depth
    assert inspected is not None  # the inspection has read this file
    view = PaddedSquare.of(inspected, preprocessing.pad_multiple)
    place = largest_place(anomaly_map, view)
    small = _shrink(inspected)
    heated = anomaly_overlay(small, _over_sensor(anomaly_map, view, small), map_threshold)
    return Pictures(
        image=_outlined_uri(image, mask, view),
        depth=_outlined_uri(depth, mask, view, _DEPTH_QUALITY),
        heatmap=_uri(ringed(heated, _scaled(place, small, inspected))),
        detail=_uri(_detail(inspected, place)),
        outlined=mask is not None and bool(mask.any()),
    )


def draw_legend() -> str:
    """Draw the colour scale of the heatmaps from 0 to 2.2 times the threshold with the code that draws heatmaps."""
    ramp = np.tile(np.linspace(0.0, 2.2, 440, dtype=np.float32), (24, 1))
    return _uri(anomaly_overlay(np.full((24, 440, 3), _GREY, dtype=np.uint8), ramp, 1.0))


def _show_image(path: Path | None, colour: Colour) -> RgbImage | None:
    if path is None:
        return None
    with suppress(InputError):
        return read_rgb(path, colour=colour if is_grey16(path) else image_colour(path))
    return None


def _show_depth(path: Path | None) -> RgbImage | None:
    if path is None:
        return None
    with suppress(InputError):
        return depth_image(read_xyz(path))
    return None


def _over_sensor(array: npt.NDArray[np.float32], view: PaddedSquare, picture: RgbImage) -> npt.NDArray[np.float32]:
    """Return an array `[size, size]` of the padded square over the picture of the sensor, `[h, w]` of the picture."""
    scale = len(array) / view.side
    left, top = view.left * scale, view.top * scale
    box = (left, top, left + view.width * scale, top + view.height * scale)
    resized = Image.fromarray(array).resize(picture.shape[1::-1], Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def _shrink(picture: RgbImage) -> RgbImage:
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.array(image)


def _scaled(place: tuple[float, float], target: RgbImage, source: RgbImage) -> tuple[float, float]:
    """Return the place in a picture of another size, in pixels."""
    row, column = ((place[axis] + 0.5) * target.shape[axis] / source.shape[axis] - 0.5 for axis in (0, 1))
    return row, column


def _detail(picture: RgbImage, place: tuple[float, float]) -> RgbImage:
    """Return the part of the picture around a place, enlarged to the size of the others, with a ring."""
    shape = [min(max(_LEAST_DETAIL, round(_DETAIL * side)), side) for side in picture.shape[:2]]
    top, left = (
        min(max(round(at) - side // 2, 0), end - side)
        for at, side, end in zip(place, shape, picture.shape[:2], strict=True)
    )
    crop = picture[top : top + shape[0], left : left + shape[1]]
    scale = _SIDE / max(shape)
    size = max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))
    enlarged = np.array(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC))
    return ringed(enlarged, _scaled((place[0] - top, place[1] - left), enlarged, crop))


def _outlined_uri(
    picture: RgbImage | None, mask: Mask | None, view: PaddedSquare, quality: int = _JPEG_QUALITY
) -> str | None:
    """Return a picture with the outline of the mask, if the picture has the size of the inspected one."""
    if picture is None:
        return None
    small = _shrink(picture)
    if mask is not None and picture.shape[:2] == (view.height, view.width):
        small = _outlined(small, mask, view)
    return _uri(small, quality)


def _outlined(picture: RgbImage, mask: Mask, view: PaddedSquare) -> RgbImage:
    """Draw the outer edge of a mask over the padded square as a thin cyan line with a black edge."""
    region = _over_sensor(mask.astype(np.float32), view, picture) >= 0.5
    line = ndimage.binary_dilation(region, iterations=3) & ~ndimage.binary_dilation(region)
    outlined = picture.copy()
    outlined[ndimage.binary_dilation(line)] = 0
    outlined[line] = _OUTLINE
    return outlined


def _uri(picture: RgbImage, quality: int = _JPEG_QUALITY) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
