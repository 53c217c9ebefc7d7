"""Resize to the network's size, each kind of image in the way of the published loader (REFERENCE §4).

Clouds take the upper left source pixel, colours and ground truth sample at pixel centres: up to half a
target pixel of shift between them, kept for parity with the published features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.sample import Mask, RgbImage


def resize_nearest(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Pick the nearest source pixel as `torch.nn.functional.interpolate(mode="nearest")` does.

    Args:
        array: `[h, w, ...]`, any dtype: a cloud in metres, or a bool mask.
        size: rows and columns of the result.

    Returns:
        `[size, size, ...]`, same dtype; the source index is floor(target · length / size) in float32.
    """
    rows = _source_index(array.shape[0], size)
    columns = _source_index(array.shape[1], size)
    return array[rows[:, None], columns]


def _source_index(length: int, size: int) -> npt.NDArray[np.int64]:
    scale = np.float32(length) / np.float32(size)
    index = np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(index, length - 1)


def resize_rgb(rgb: RgbImage, size: int) -> RgbImage:
    """Pillow's bicubic, antialiased when shrinking, rounded to 8 bit.

    Args:
        rgb: uint8 `[h, w, 3]`, RGB order, 0-255.
        size: rows and columns of the result.

    Returns:
        uint8 `[size, size, 3]`, RGB order, 0-255.
    """
    return np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC))


def resize_ground_truth(mask: npt.NDArray[np.uint8] | Mask, size: int) -> Mask:
    """Pillow's nearest (source index floor((target + 0.5) · length / size)), then a threshold at half.

    Args:
        mask: uint8 `[h, w]` 0-255, defect above 127; or bool `[h, w]`.
        size: rows and columns of the result.

    Returns:
        bool `[size, size]`, True where defective.
    """
    grey = mask.astype(np.uint8) * np.uint8(255) if mask.dtype == np.bool_ else mask
    resized = Image.fromarray(grey).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(np.asarray(resized) > 127)
