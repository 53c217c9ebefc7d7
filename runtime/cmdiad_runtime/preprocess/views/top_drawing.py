"""Drawing a part from straight above its support, at a fixed scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.cloud.surface import SurfaceImage, smoothed
from cmdiad_runtime.preprocess.image.morphology import grown
from cmdiad_runtime.preprocess.views.top_pose import PartCloud, Pose, cells_inside, rotation, top_pixels
from cmdiad_runtime.preprocess.work.products import times
from cmdiad_runtime.sample import Mask, RgbImage

_OCCLUDED = 0.0015  # metres: points further below the top are not visible from above
_SQUARE_REACH = 0.001  # metres: half a side of the squares that close gaps in detectors of earlier versions
_SPREAD = 0.6  # target pixels: standard deviation of the spot that a point is drawn as
_LEAST_WEIGHT = 0.15  # fraction of the weight at a pixel inside a surface

_Float = npt.NDArray[np.float64]


def draw_top_view(
    cloud: PartCloud, values: _Float, pose: Pose, *, size: int, side: float, gap: float | None = None
) -> SurfaceImage:
    """Draw values of the points as an image from above, in the template's pose.

    Args:
        cloud: Part.
        values: Value of each point, `[N, 3]`, 0-255, of `normal_colours` or `point_colours`.
        pose: Pose of the part, of `find_pose`.
        size: Rows and columns of the image.
        side: Length of the image's edge, metres.
        gap: Widest gap of the measurement that is filled, metres, see `TopSettings`.

    Returns:
        Image float32 `[size, size, 3]`, 0-255; 0 in all channels off the part.
    """
    pitch = side / size
    target = top_pixels(cloud, pose, size=size, side=side)
    seen = _seen_from_above(target, cloud.position[:, 2], size)
    spot = max(1.0, cloud.pitch / pitch)
    sums = _splat(target[seen], np.column_stack([np.ones(seen.sum()), values[seen]]), size)
    sums = smoothed(sums, _SPREAD * spot)
    # Earlier versions required the same weight of coarse views, in which many points share a pixel.
    spacing = spot if gap is None else cloud.pitch / pitch
    known = sums[0] > _LEAST_WEIGHT / spacing**2
    image = np.where(known, sums[1:] / np.where(known, sums[0], 1), 0)
    reach = _SQUARE_REACH / pitch
    closed = _closed_by_squares(known, reach) if gap is None else _closed_between(target[seen], size, gap / pitch)
    return np.moveaxis(_fill(image, known, closed, reach), 0, 2).astype(np.float32)


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


def _closed_by_squares(known: Mask, reach: float) -> Mask:
    """Return the morphological closing of a mask by squares, as detectors of earlier versions were trained with.

    The squares fill gaps of 2 mm in a fine view, but up to about 4 mm in a coarse view and along diagonals.
    """
    width = 2 * max(round(reach), 1) + 1
    closed = scipy.ndimage.minimum_filter(scipy.ndimage.maximum_filter(np.pad(known, width), width), width)
    return np.asarray(closed[width:-width, width:-width])


def _closed_between(target: _Float, size: int, gap: float) -> Mask:
    """Return the pixels between points that are at most `gap` pixels apart, bool `[size, size]`.

    This is the morphological closing of the pixels with a point by an octagon, which is nearly a disc. A closing of
    radius n joins pixels that are up to 2n + 1 apart.

    Args:
        target: Row and column of each visible point, `[N, 2]`.
        size: Rows and columns of the view.
        gap: Widest gap that is closed, pixels.
    """
    radius = max(int((gap - 1) / 2), 0)
    cell = np.rint(target).astype(np.int64)
    rows, columns = cell[cells_inside(cell, size)].T
    margin = radius + 1
    occupied = np.zeros((size + 2 * margin, size + 2 * margin), dtype=np.bool_)
    occupied[rows + margin, columns + margin] = True
    closed = ~grown(~grown(occupied, radius), radius)
    return closed[margin:-margin, margin:-margin]


def _fill(image: _Float, known: Mask, closed: Mask, reach: float) -> _Float:
    """Fill the closed pixels that are not known by normalised convolution over about `reach` pixels."""
    width = 2 * max(round(reach), 1) + 1
    sums = smoothed(np.concatenate([known[None], image]), width / 4)
    smooth = sums[1:] / np.maximum(sums[0], 1e-6)
    return np.where(known, image, np.where(closed, smooth, 0))
