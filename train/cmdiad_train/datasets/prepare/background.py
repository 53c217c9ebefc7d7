"""Remove the background from a raw sample of MVTec 3D-AD."""

from __future__ import annotations

import numpy as np

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud import foreground
from cmdiad_runtime.preprocess.cloud.support_plane import fit_support_plane
from cmdiad_runtime.preprocess.cloud.valid import valid_mask
from cmdiad_runtime.preprocess.image.padding import pad_to_square
from cmdiad_runtime.sample import RgbImage, XyzImage

SEED = 0
"""Seed of the search for the support plane."""


def remove_background(
    xyz: XyzImage, rgb: RgbImage | None, *, name: str, seed: int = SEED
) -> tuple[XyzImage, RgbImage | None]:
    """Set the background of a raw sample to zero and pad the sample to a square (method §2.1-2.5).

    As published, a pixel of the image turns black if its point lies on the support plane or outside the largest
    cluster. A pixel without a point keeps its colour.

    Args:
        xyz: float32 `[h, w, 3]`, metres, zeros where the sensor measured nothing.
        rgb: uint8 `[h, w, 3]`, RGB order, 0-255, or None.
        name: Name of the sample, for error messages.
        seed: Seed of the plane search.

    Returns:
        Cloud and image as squares `[side, side, 3]`, `side` a multiple of 100.

    Raises:
        InputError: The whole cloud is background.
    """
    plane = fit_support_plane(xyz, seed=seed)
    valid = valid_mask(xyz)
    part = foreground.remove_background(xyz, valid, plane)
    if not part.any():
        raise InputError(
            name,
            found="only background in the cloud",
            expected="a part standing at least 5 mm off its support",
            action="Check that a part is in view and that the unit is metres, or leave the sample out",
        )
    removed = valid & ~part
    if plane is not None:  # as published, also pixels without a point if the plane passes through the origin
        removed |= plane.distance(xyz) < foreground.PLANE_CLEARANCE
    square_xyz = pad_to_square(np.where(removed[..., None], xyz.dtype.type(0), xyz))
    if rgb is None:
        return square_xyz, None
    return square_xyz, pad_to_square(np.where(removed[..., None], rgb.dtype.type(0), rgb))
