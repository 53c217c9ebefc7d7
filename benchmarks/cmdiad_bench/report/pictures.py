"""Draw one inspected sample: image, depth, defect and heatmap side by side, as data URIs."""

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

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.overlay import anomaly_overlay, depth_image
from cmdiad_runtime.names import MODALITIES
from cmdiad_runtime.preprocess.image.padding import pad_offset, pad_to_square
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.readers import image_colour, read_rgb, read_xyz
from cmdiad_runtime.sample import Mask, RgbImage
from cmdiad_train.datasets import Category, SampleFiles

_SIDE = 336
"""Pixels along the longer side: the width on the page, with a margin for dense screens."""
_JPEG_QUALITY = 88
_OUTLINE = np.array([0, 230, 255], dtype=np.uint8)
"""Cyan, a colour that occurs neither on parts nor in heatmaps."""
_GREY = 96


@dataclass(frozen=True)
class Pictures:
    """Data URIs of one sample; None if there is no such picture.

    Attributes:
        image: Camera image.
        depth: Cloud as a depth image.
        mask: Inspected picture with the outline of the defect.
        heatmap: Inspected picture with the anomaly map, on the colour scale fixed by the threshold.
    """

    image: str | None
    depth: str | None
    mask: str | None
    heatmap: str


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
    image = _show_image(files.rgb or (companion.rgb if companion else None))
    depth = _show_depth(files.xyz or (companion.xyz if companion else None))
    inspected = image if files.rgb is not None else depth
    assert inspected is not None  # the inspection has read this file
    small, crop = _view(inspected, preprocessing.pad_multiple)
    return Pictures(
        image=None if image is None else _uri(_shrink(image)),
        depth=None if depth is None else _uri(_shrink(depth)),
        mask=None if mask is None else _uri(_outlined(small, mask)[crop]),
        heatmap=_uri(anomaly_overlay(small, anomaly_map, map_threshold)[crop]),
    )


def draw_legend() -> str:
    """Draw the colour scale of the heatmaps from 0 to 2.2 times the threshold with the code that draws heatmaps."""
    ramp = np.tile(np.linspace(0.0, 2.2, 440, dtype=np.float32), (24, 1))
    return _uri(anomaly_overlay(np.full((24, 440, 3), _GREY, dtype=np.uint8), ramp, 1.0))


def _show_image(path: Path | None) -> RgbImage | None:
    if path is None:
        return None
    with suppress(InputError):
        return read_rgb(path, colour=image_colour(path))
    return None


def _show_depth(path: Path | None) -> RgbImage | None:
    if path is None:
        return None
    with suppress(InputError):
        return depth_image(read_xyz(path))
    return None


def _view(picture: RgbImage, multiple: int) -> tuple[RgbImage, tuple[slice, slice]]:
    """Return the picture padded as for the network and shrunk to a square, and the region of the picture in it."""
    height, width = picture.shape[:2]
    top, left, side = pad_offset(height, width, multiple=multiple)
    square = _shrink(pad_to_square(picture, multiple=multiple))
    scale = len(square) / side
    rows = slice(round(top * scale), round((top + height) * scale))
    return square, (rows, slice(round(left * scale), round((left + width) * scale)))


def _shrink(picture: RgbImage) -> RgbImage:
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.array(image)


def _outlined(picture: RgbImage, mask: Mask) -> RgbImage:
    """Draw the outer edge of the mask as a cyan line on black."""
    resized = np.array(Image.fromarray(mask).resize(picture.shape[1::-1], Image.Resampling.NEAREST), dtype=bool)
    around = ndimage.binary_dilation(resized, iterations=3)
    line = ndimage.binary_dilation(resized, iterations=2) & ~resized
    outlined = picture.copy()
    outlined[around & ~resized] = 0
    outlined[line] = _OUTLINE
    return outlined


def _uri(picture: RgbImage) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
