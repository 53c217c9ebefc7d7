"""The foreground of an organised cloud: no support plane, and only the largest cluster (method §2.3, §2.5).

The steps and constants are those of the published preprocessing of MVTec 3D-AD; see `support_plane` and `clustering`
for the deliberate differences.
"""

from __future__ import annotations

import numpy as np

from cmdiad_runtime.preprocess.cloud.clustering import largest_cluster
from cmdiad_runtime.preprocess.cloud.support_plane import Plane, fit_support_plane
from cmdiad_runtime.preprocess.cloud.valid import valid_mask
from cmdiad_runtime.sample import Mask, XyzImage

PLANE_CLEARANCE = 0.005
"""Metres: points closer to the support plane than this are background (method §2.3)."""


def foreground_mask(xyz: XyzImage, *, seed: int = 0) -> Mask:
    """Return the part's pixels: valid, off the support plane, in the largest cluster (method §2.3, §2.5).

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, metres; 0, NaN and infinity mean missing.
        seed: Seed of the plane search.

    Returns:
        bool `[h, w]`, all False if nothing remains.
    """
    return remove_background(xyz, valid_mask(xyz), fit_support_plane(xyz, seed=seed))


def remove_background(xyz: XyzImage, valid: Mask, plane: Plane | None) -> Mask:
    """Return the pixels of the largest cluster off the support plane, bool `[h, w]`.

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, metres.
        valid: Pixels with a point, bool `[h, w]`, of `valid_mask`; not changed.
        plane: Support plane, or None if there is none.
    """
    mask = off_support(xyz, valid, plane)
    mask[mask] = largest_cluster(xyz[mask])
    return mask


def off_support(xyz: XyzImage, valid: Mask, plane: Plane | None) -> Mask:
    """Return the pixels with a point at least 5 mm off the support plane, bool `[h, w]`; see `remove_background`."""
    mask = valid.copy()
    if plane is not None:
        with np.errstate(invalid="ignore"):  # infinity in pixels without a point
            mask &= plane.distance(xyz) >= PLANE_CLEARANCE
    return mask
