"""The pixels of an organised cloud that carry a point."""

from __future__ import annotations

import numpy as np

from cmdiad_runtime.sample import Mask, XyzImage
from cmdiad_runtime.support.missing_points import within_reach


def valid_mask(xyz: XyzImage) -> Mask:
    """Return the pixels that carry a point: all three coordinates finite and not 0 (method §4).

    Coordinates beyond 50 m are missing too: some sensors write a large number for a point that they did not measure.

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, metres; 0, NaN, infinity and more than 50 m mean missing.

    Returns:
        bool `[h, w]`.
    """
    mask = np.ones(xyz.shape[:-1], dtype=np.bool_)
    for axis in range(3):
        coordinate = xyz[..., axis]
        mask &= within_reach(coordinate)
        mask &= coordinate != 0
    return mask
