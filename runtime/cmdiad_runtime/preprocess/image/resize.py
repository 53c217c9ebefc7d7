"""Resizing to the network's size, for each kind of image as in the published loader (method §4).

Clouds take the upper left source pixel, while colours and ground truth are sampled at pixel centres. The resulting
shift of up to half a target pixel is kept for parity with the published features.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.sample import Mask, RgbImage

RgbFilter = Literal["bicubic", "bilinear"]
_FILTERS: dict[RgbFilter, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def resize_nearest(array: npt.NDArray[Any], size: int, *, width: int | None = None) -> npt.NDArray[Any]:
    """Pick the nearest source pixel as `torch.nn.functional.interpolate(mode="nearest")` does.

    Args:
        array: Cloud in metres, or mask, `[h, w, ...]`, any dtype.
        size: Rows of the result, and its columns unless `width` is another number.
        width: Columns of the result.

    Returns:
        Array `[size, width, ...]` of the same dtype. The source index is floor(target · length / size) in float32.
    """
    rows = _source_index(array.shape[0], size)
    columns = _source_index(array.shape[1], width or size)
    return array[rows[:, None], columns]


def _source_index(length: int, size: int) -> npt.NDArray[np.int64]:
    scale = np.float32(length) / np.float32(size)
    index = np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(index, length - 1)


def resize_bilinear(image: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Interpolate an image `[h, w, C]` at pixel centres without antialiasing, float32 `[size, size, C]`.

    Equal to `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    """
    for axis in (0, 1):
        length = image.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, length - 1)
        share = (place - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        image = np.take(image, low, axis=axis) * (1 - share) + np.take(image, high, axis=axis) * share
    return image


def resize_rgb(rgb: RgbImage, size: int, *, rgb_filter: RgbFilter = "bicubic") -> RgbImage:
    """Resize an image with a filter of Pillow, antialiased when shrinking, rounded to 8 bit.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        size: Rows and columns of the result.
        rgb_filter: Filter.

    Returns:
        Image uint8 `[size, size, 3]`, RGB order, 0-255.
    """
    return np.asarray(Image.fromarray(rgb).resize((size, size), _FILTERS[rgb_filter]))


def resize_ground_truth(mask: npt.NDArray[np.uint8] | Mask, size: int) -> Mask:
    """Resize a mask with Pillow's nearest filter, then apply a threshold at half.

    The source index is floor((target + 0.5) · length / size).

    Args:
        mask: Mask uint8 `[h, w]`, 0-255, defective above 127; or bool `[h, w]`.
        size: Rows and columns of the result.

    Returns:
        Mask bool `[size, size]`, True where defective.
    """
    grey = mask.astype(np.uint8) * np.uint8(255) if mask.dtype == np.bool_ else mask
    resized = Image.fromarray(grey).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(np.asarray(resized) > 127)
