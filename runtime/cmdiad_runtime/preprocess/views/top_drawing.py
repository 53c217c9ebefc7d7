"""Drawing a part from straight above its support, at a fixed scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.cloud.cloud_inputs import CloudFrame
from cmdiad_runtime.preprocess.cloud.surface import SurfaceImage, smoothed
from cmdiad_runtime.preprocess.views.top_pose import PartCloud, Pose, cells_inside, rotation, top_pixels
from cmdiad_runtime.preprocess.work.products import times
from cmdiad_runtime.sample import Mask, RgbImage

_OCCLUDED = 0.0015  # metres: points further below the top are not visible from above
_CLOSED = 0.001  # metres: gaps in the measurement up to twice as wide are filled
_SPREAD = 0.6  # target pixels: standard deviation of the spot that a point is drawn as
_LEAST_WEIGHT = 0.15  # points per pixel
_DEPTH = 1.0  # metres: `farthest_point_sampling` skips points near the origin
_PART = 0.5  # between the values off the part and on the part

_Float = npt.NDArray[np.float64]


def draw_top_view(cloud: PartCloud, values: _Float, pose: Pose, *, size: int, side: float) -> SurfaceImage:
    """Draw values of the points as an image from above, in the template's pose.

    Args:
        cloud: Part.
        values: Value of each point, `[N, 3]`, 0-255, of `normal_colours` or `point_colours`.
        pose: Pose of the part, of `find_pose`.
        size: Rows and columns of the image.
        side: Length of the image's edge, metres.

    Returns:
        Image float32 `[size, size, 3]`, 0-255; 0 in all channels off the part. Gaps of the measurement are filled.
    """
    pitch = side / size
    target = top_pixels(cloud, pose, size=size, side=side)
    seen = _seen_from_above(target, cloud.position[:, 2], size)
    spot = max(1.0, cloud.pitch / pitch)
    sums = _splat(target[seen], np.column_stack([np.ones(seen.sum()), values[seen]]), size)
    sums = smoothed(sums, _SPREAD * spot)
    known = sums[0] > _LEAST_WEIGHT / spot**2
    image = np.where(known, sums[1:] / np.where(known, sums[0], 1), 0)
    return np.moveaxis(_fill_gaps(image, known, _CLOSED / pitch), 0, 2).astype(np.float32)


def top_frame(cloud: PartCloud, pose: Pose, *, size: int, side: float) -> CloudFrame:
    """Return what is seen of a part from above as a cloud in the template's pose, with at most one point per pixel.

    The coordinates of a point are its place along the columns and the rows of the view, from the middle of the view,
    and its height above a plane 1 m below the support. Gaps of the measurement are filled as in `draw_top_view`.

    Args:
        cloud: Part.
        pose: Pose of the part, of `find_pose`.
        size: Rows and columns of the view.
        side: Length of the view's edge, metres.
    """
    height = cloud.position[:, 2] + _DEPTH
    drawn = draw_top_view(cloud, np.column_stack([np.ones_like(height), height, height]), pose, size=size, side=side)
    valid = drawn[..., 0] > _PART  # 1 on the part, 0 off the part
    steps = ((np.arange(size) - (size - 1) / 2) * (side / size)).astype(np.float32)
    across, down = np.meshgrid(steps, steps)
    return CloudFrame(np.where(valid[..., None], np.stack([across, down, drawn[..., 1]], axis=2), np.float32(0)), valid)


def normal_colours(cloud: PartCloud, pose: Pose) -> _Float:
    """Return the normals in the template's pose as colours, float64 `[N, 3]`, -1 to 1 mapped to 0-255."""
    turned = np.column_stack([times(cloud.normals[:, :2], rotation(pose.angle)), cloud.normals[:, 2]])
    return (turned + 1) * 127.5


def point_colours(cloud: PartCloud, rgb: RgbImage) -> _Float:
    """Return the points' colours in the registered image, float64 `[N, 3]`, RGB order, 1-255 (0 is background)."""
    return np.maximum(rgb[cloud.pixels[0], cloud.pixels[1]].astype(np.float64), 1)


def _seen_from_above(target: _Float, height: _Float, size: int) -> npt.NDArray[np.bool_]:
    """Return whether each point is visible from above, bool `[N]`."""
    cell = np.rint(target).astype(np.int64)
    inside = cells_inside(cell, size)
    top = np.full((size, size), -np.inf)
    rows, columns = cell[inside].T
    np.maximum.at(top, (rows, columns), height[inside])
    top = scipy.ndimage.maximum_filter(top, 3)
    inside[inside] = height[inside] >= top[rows, columns] - _OCCLUDED
    return inside


def _splat(target: _Float, values: _Float, size: int) -> _Float:
    """Distribute values `[N, C]` to the four pixels around each target `[N, 2]`; return sums `[C, size, size]`."""
    edge = size + 2  # the margin collects the shares that fall outside
    low = np.floor(target).astype(np.int64)
    part = target - low
    total = np.zeros((values.shape[1], edge * edge))
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1])
            index = (low[:, 0] + 1 + down) * edge + low[:, 1] + 1 + right
            for channel, column in enumerate(values.T):
                total[channel] += np.bincount(index, share * column, edge * edge)
    return total.reshape(-1, edge, edge)[:, 1:-1, 1:-1]


def _fill_gaps(image: _Float, known: Mask, reach: float) -> _Float:
    """Fill the pixels that a morphological closing by `reach` pixels adds to `known`, by normalised convolution."""
    width = 2 * max(round(reach), 1) + 1
    closed = scipy.ndimage.minimum_filter(scipy.ndimage.maximum_filter(np.pad(known, width), width), width)[
        width:-width, width:-width
    ]
    sums = smoothed(np.concatenate([known[None], image]), width / 4)
    smooth = sums[1:] / np.maximum(sums[0], 1e-6)
    return np.where(known, image, np.where(closed, smooth, 0))
