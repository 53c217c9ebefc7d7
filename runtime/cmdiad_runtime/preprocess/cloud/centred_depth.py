"""Make the depth image of a cloud as the published AST does (arXiv 2210.07829): centimetres about the part's mean.

The support is a bilinear surface through the four corners of the cloud, and everything farther than 7 mm from it is the
part. The cloud is read as the sensor measured it, with its background.

Deliberate differences from the published code: a cloud without a point in one of the four corners, whose depth image
would be all NaN, is refused, as is one without a part; and clouds that are not square are padded instead of stretched,
so that the anomaly map lies over the picture of the sensor.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.surface import SurfaceImage
from cmdiad_runtime.preprocess.image.padding import pad_to_square
from cmdiad_runtime.preprocess.image.resize import resize_bilinear
from cmdiad_runtime.sample import Mask, XyzImage
from cmdiad_runtime.support.missing_points import within_reach

DEPTH_SHARE = 4
"""Pixels of the view per pixel of the depth image: 768 and 192 in the published code."""
_CLEARANCE = 0.007  # metres: smallest distance of the part from the surface through the corners
_CORNER = 2  # pixels: edge of a corner
_FILLS = 3
_CENTIMETRES = 100  # per metre

CentredKind = Literal["centred-depth"]

_Depth = npt.NDArray[np.float32]


def centred_depth_image(xyz: XyzImage, *, size: int, name: str) -> SurfaceImage:
    """Return depth and part of a cloud over the padded square.

    Args:
        xyz: Organised cloud with its background, float32 `[h, w, 3]`, metres; 0, NaN, infinity and more than 50 m mean
            missing.
        size: Rows and columns of the result, a multiple of `DEPTH_SHARE`.
        name: Name of the sample, for messages.

    Returns:
        float32 `[size, size, 3]`: depth about the part's mean in centimetres, 1 on the part, 0. All three are 0 in the
        background. Every pixel of the depth image fills a square of 4 x 4 pixels.

    Raises:
        InputError: A corner of the cloud has no point, or the cloud shows only background.
    """
    z = np.where(within_reach(xyz).all(axis=2), xyz[..., 2], np.float32(0))
    depth, part = centred_depth(z, name)
    channels = np.stack([depth, part.astype(np.float32), np.zeros_like(depth)], axis=2)
    small = resize_bilinear(pad_to_square(channels, multiple=1), size // DEPTH_SHARE)
    small[..., 1] = small[..., 1] > 0
    return small.repeat(DEPTH_SHARE, axis=0).repeat(DEPTH_SHARE, axis=1)


def centred_depth(z: _Depth, name: str) -> tuple[_Depth, Mask]:
    """Return the depth of the part about its mean, float32 `[h, w]`, centimetres, and the part's pixels.

    Args:
        z: Depth, float32 `[h, w]`, metres; 0 means missing.
        name: Name of the sample, for messages.

    Raises:
        InputError: A corner has no point, or everything is background.
    """
    filled = filled_holes(z)
    part = off_the_corners(filled, name)
    mean = filled[part].mean()
    return np.where(part, _CENTIMETRES * (filled - mean), np.float32(0)), part


def filled_holes(z: _Depth, passes: int = _FILLS) -> _Depth:
    """Return depth with each 0 replaced by the mean of positive values among its neighbours, a number of times.

    Pixels of the first row and column are never filled, as published.
    """
    for _ in range(passes):
        rows, columns = 1 + np.argwhere(z[1:, 1:] == 0).T
        windows = sliding_window_view(np.pad(z, 1), (3, 3))[rows, columns].reshape(-1, 9)
        counts = np.count_nonzero(windows > 0, axis=1)
        known = counts > 0
        z = z.copy()
        z[rows[known], columns[known]] = windows[known].sum(axis=1) / counts[known].astype(np.float32)
    return z


def off_the_corners(z: _Depth, name: str) -> Mask:
    """Return the pixels that stand off the bilinear surface through the four corners, bool `[h, w]`.

    Args:
        z: Depth with filled holes, float32 `[h, w]`, metres; 0 means missing.
        name: Name of the sample, for messages.

    Raises:
        InputError: A corner has no point, or no pixel is off the surface.
    """
    (top_left, top_right), (bottom_left, bottom_right) = _corner_depths(z, name)
    down, right = (np.linspace(0, 1, length) for length in z.shape)
    left_edge = top_left + (bottom_left - top_left) * down
    right_edge = top_right + (bottom_right - top_right) * down
    surface = left_edge[:, None] + (right_edge - left_edge)[:, None] * right
    part = (np.abs(surface - z) > _CLEARANCE) & (z != 0)
    if not part.any():
        raise InputError(
            name,
            found="only background in the cloud",
            expected="a part standing more than 7 mm off the surface through the corners of the cloud",
            action="check that a part is in view and that the unit is metres, or train with --geometry normals",
            reason="no-part",
        )
    return part


def _corner_depths(z: _Depth, name: str) -> npt.NDArray[np.float64]:
    """Return the mean depth of the points in each corner, float64 `[2, 2]`: top and bottom, left and right."""
    ends = slice(None, _CORNER), slice(-_CORNER, None)
    depths, missing = np.zeros((2, 2)), []
    for row, vertical in enumerate(("top", "bottom")):
        for column, horizontal in enumerate(("left", "right")):
            block = z[ends[row], ends[column]]
            if (block > 0).any():
                depths[row, column] = block[block > 0].mean(dtype=np.float64)
            else:
                missing.append(f"{vertical} {horizontal}")
    if missing:
        raise InputError(
            name,
            found=f"no point in the {' and the '.join(missing)} corner of the cloud",
            expected="the support in all four corners of the cloud, as the published depth image needs",
            action="record the support around the part, or train with --geometry normals",
            reason="no-points",
        )
    return depths
