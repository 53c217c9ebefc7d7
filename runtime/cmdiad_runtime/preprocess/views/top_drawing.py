"""Drawing a part from straight above its support, at a fixed scale."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.cloud.cloud_inputs import CloudFrame
from cmdiad_runtime.preprocess.cloud.surface import SurfaceImage, smoothed, smoothed_at
from cmdiad_runtime.preprocess.views.top_pose import PartCloud, Pose, cells_inside, rotation, top_pixels
from cmdiad_runtime.preprocess.work.products import times
from cmdiad_runtime.sample import Mask, RgbImage

_OCCLUDED = 0.0015  # metres: points further below the top are not visible from above
_CLOSED = 0.001  # metres: gaps in the measurement up to twice as wide are filled
_SPREAD = 0.6  # target pixels: standard deviation of the spot that a point is drawn as
_TRUNCATE = 4.0  # standard deviations: radius of the spot
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
    drawn = np.zeros((size, size, 3), dtype=np.float32)
    if not seen.any():
        return drawn
    spot = max(1.0, cloud.pitch / pitch)
    sigma = _SPREAD * spot
    window = _window(target[seen], math.ceil(_TRUNCATE * sigma) + 1, size)  # The image is 0 outside.
    sums = _splat(target[seen], np.column_stack([np.ones(seen.sum()), values[seen]]), window)
    sums = smoothed(sums, sigma, truncate=_TRUNCATE)
    known = sums[0] > _LEAST_WEIGHT / spot**2
    image = np.divide(sums[1:], sums[0], where=known, out=np.zeros_like(sums[1:]))
    drawn[window] = np.moveaxis(_fill_gaps(image, known, _CLOSED / pitch), 0, 2)
    return drawn


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
    pixel = cell[inside] @ (size, 1)
    np.maximum.at(top.reshape(-1), pixel, height[inside])
    inside[inside] = height[inside] >= _largest_nearby(top).reshape(-1)[pixel] - _OCCLUDED
    return inside


def _largest_nearby(image: _Float) -> _Float:
    """Replace each pixel by the largest value among itself and its eight neighbours; return the image `[h, w]`."""
    for turned in (image, image.T):
        source = turned.copy()
        np.maximum(turned[1:], source[:-1], out=turned[1:])
        np.maximum(turned[:-1], source[1:], out=turned[:-1])
    return image


def _window(target: _Float, reach: int, size: int) -> tuple[slice, slice]:
    """Return the rows and columns of the view within `reach` pixels of the points `[N, 2]`."""
    ends = [(math.floor(column.min()) - reach, math.floor(column.max()) + 2 + reach) for column in target.T]
    rows, columns = (slice(max(first, 0), min(end, size)) for first, end in ends)
    return rows, columns


def _splat(target: _Float, values: _Float, window: tuple[slice, slice]) -> _Float:
    """Distribute values `[N, C]` to the four pixels around each target `[N, 2]`.

    Return the sums in a window of the view that contains all targets, `[C, rows, columns]`.
    """
    height, width = (part.stop - part.start + 2 for part in window)  # the margin collects the shares that fall outside
    low = np.floor(target).T
    down, right = target.T - low
    first = (low[0].astype(np.int64) + (1 - window[0].start)) * width + low[1].astype(np.int64) + (1 - window[1].start)
    total = np.zeros((values.shape[1], height * width))
    columns = np.ascontiguousarray(values.T)
    for step_down, share_down in enumerate((1 - down, down)):
        for step_right, share_right in enumerate((1 - right, right)):
            share = share_down * share_right
            index = first + (step_down * width + step_right)
            for channel, column in enumerate(columns):
                total[channel] += np.bincount(index, share * column, height * width)
    return total.reshape(-1, height, width)[:, 1:-1, 1:-1]


def _fill_gaps(image: _Float, known: Mask, reach: float) -> _Float:
    """Fill the pixels that a morphological closing by `reach` pixels adds to `known`, by normalised convolution."""
    width = 2 * max(round(reach), 1) + 1
    rows, columns = np.nonzero(_closed(known, width) & ~known)
    if len(rows):
        sums = smoothed_at(np.concatenate([known[None], image]), width / 4, rows, columns)
        image[:, rows, columns] = sums[1:] / np.maximum(sums[0], 1e-6)
    return image


def _closed(mask: Mask, width: int) -> Mask:
    """Close gaps narrower than an odd `width`, by squares of this width; beyond the edge lies background."""
    grown = _any_in_squares(np.pad(mask, width - 1), width)
    return ~_any_in_squares(~grown, width)


def _any_in_squares(mask: Mask, width: int) -> Mask:
    """Return whether each square of `width` by `width` pixels inside an image contains a pixel of a mask."""
    for _ in range(2):
        reached, count = mask, 1
        while count < width:
            step = min(count, width - count)
            reached, count = reached[step:] | reached[:-step], count + step
        mask = reached.T
    return mask
