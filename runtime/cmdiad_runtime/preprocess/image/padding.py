"""Padding of images and organised clouds to a square (method §2.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PAD_MULTIPLE = 100
"""Pixels: the published code rounds the side of the square up to a multiple of this."""


def pad_offset(height: int, width: int, *, multiple: int = PAD_MULTIPLE) -> tuple[int, int, int]:
    """Return where an image lies in its padded square (method §2.4).

    Args:
        height: Rows of the image.
        width: Columns of the image.
        multiple: The side is rounded up to a multiple of this, 100 in the published code; 1 keeps the longer edge.

    Returns:
        `(top, left, side)` in pixels; `side` is the longer edge rounded up to a multiple of `multiple`.
    """
    side = -(-max(height, width) // multiple) * multiple
    return (side - height) // 2, (side - width) // 2, side


def pad_to_square(array: npt.NDArray[Any], *, multiple: int = PAD_MULTIPLE) -> npt.NDArray[Any]:
    """Pad an image or cloud with zeros to the square of `pad_offset` (method §2.4).

    Args:
        array: Image or cloud `[h, w]` or `[h, w, channels]`, any dtype.
        multiple: See `pad_offset`.

    Returns:
        `[side, side]` or `[side, side, channels]`, same dtype, a copy.
    """
    height, width = array.shape[:2]
    top, left, side = pad_offset(height, width, multiple=multiple)
    padded = np.zeros((side, side, *array.shape[2:]), dtype=array.dtype)
    padded[top : top + height, left : left + width] = array
    return padded
