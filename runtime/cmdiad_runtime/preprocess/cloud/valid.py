"""The pixels of an organised cloud that carry a point."""

from __future__ import annotations

import numpy as np

from cmdiad_runtime.sample import Mask, XyzImage


def valid_mask(xyz: XyzImage) -> Mask:
    """Return the pixels that carry a point: all three coordinates finite and not 0 (method §4).

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, metres; 0, NaN and infinity mean missing.

    Returns:
        bool `[h, w]`.
    """
    mask = np.ones(xyz.shape[:-1], dtype=np.bool_)
    for axis in range(3):
        coordinate = xyz[..., axis]
        mask &= np.isfinite(coordinate)
        mask &= coordinate != 0
    return mask
