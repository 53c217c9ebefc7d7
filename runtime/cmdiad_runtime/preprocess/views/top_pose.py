"""The part from straight above its support, turned to one pose, at one scale: what is left to compare is the part.

Parts lie in any direction, and a sensor that looks at the support obliquely sees another picture of each. Here every
point is moved to axes on the support plane, the turn and place on it are found by correlation with a template (the
mean of the training parts), and the points' values, normals or colours, are drawn on a metric grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.cloud.foreground import Plane
from cmdiad_runtime.preprocess.cloud.surface import SurfaceImage, normals_and_pitch, smoothed
from cmdiad_runtime.preprocess.views.template import COARSE_ANGLES, TEMPLATE_SIZE, best_match, fine_angles, halved
from cmdiad_runtime.preprocess.work.products import times
from cmdiad_runtime.sample import Mask, RgbImage, XyzImage

_THINNED = 6  # every so many points suffice to find the pose
_MASK_WEIGHT = 0.5  # of a pixel being covered, beside its unit normal
_OCCLUDED = 0.0015  # metres: what lies further below the top is not seen from above
_CLOSED = 0.001  # metres: gaps in the measurement up to twice as wide are filled
_SPREAD = 0.6  # target pixels: standard deviation of the spot that a point is drawn as
_LEAST_WEIGHT = 0.15  # points per pixel

_Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PlanCloud:
    """A part's points on axes of its support plane.

    Attributes:
        position: float64 `[N, 3]`, metres: along two axes on the plane, and height above it.
        normals: float64 `[N, 3]`, unit normals on those axes, the third upwards.
        pixels: int64 `[2, N]`, row and column of each point in the sensor's image.
        pitch: distance of neighbouring pixels on the part, metres.
    """

    position: _Float
    normals: _Float
    pixels: npt.NDArray[np.int64]
    pitch: float


@dataclass(frozen=True)
class Pose:
    """How a part lies on its support.

    Attributes:
        angle: turn that brings it into the template's direction, radians.
        x: its middle along the plane's first axis, metres.
        y: its middle along the second.
    """

    angle: float
    x: float
    y: float


def plan_cloud(xyz: XyzImage, mask: Mask, plane: Plane | None) -> PlanCloud:
    """A part's points and normals on axes of the support plane.

    Args:
        xyz: float32 `[h, w, 3]`, metres as the sensor sees them.
        mask: bool `[h, w]`, the part's pixels that carry a point.
        plane: the support; None takes a plane across the line of sight.
    """
    normals, pitch = normals_and_pitch(xyz, mask)
    x, y, z = np.moveaxis(normals, 2, 0) != 0
    pixels = np.stack(np.nonzero(mask & (x | y | z)))
    up = np.array([0.0, 0.0, -1.0]) if plane is None else plane.normal
    axes = plane_axes(up)
    position = times(xyz[pixels[0], pixels[1]], axes.T)
    if plane is not None:
        position[:, 2] += plane.offset
    return PlanCloud(position, times(normals[pixels[0], pixels[1]], axes.T), pixels, pitch)


def plane_axes(normal: _Float) -> _Float:
    """Unit vectors `[3, 3]`: the sensor's x axis along the plane, the other axis along it, and the normal."""
    first = np.array([1.0, 0.0, 0.0]) - normal[0] * normal
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(first, normal), normal])


def pose_template(clouds: Sequence[PlanCloud], pitch: float, *, rounds: int = 3) -> npt.NDArray[np.float32]:
    """The mean of parts that are turned and moved onto one another, float32 `[3, 64, 64]`.

    Args:
        clouds: normal parts.
        pitch: of the template, metres per pixel; its 64 pixels must hold a part in any direction.
        rounds: of finding poses by the mean so far; the first mean is the first part.
    """
    template = _draw_coarse(clouds[0], _start(clouds[0]), pitch, TEMPLATE_SIZE).astype(np.float32)
    for _ in range(rounds):
        images = [_draw_coarse(c, find_pose(c, template, pitch), pitch, TEMPLATE_SIZE) for c in clouds]
        template = np.mean(images, axis=0, dtype=np.float32)
    return template


def find_pose(cloud: PlanCloud, template: npt.NDArray[np.float32], pitch: float) -> Pose:
    """The turn and shift with the largest correlation with the template: all angles coarsely, then around the best.

    Args:
        cloud: the part.
        template: `[3, 64, 64]` of `pose_template`.
        pitch: of the template, metres per pixel.
    """
    cloud = _thinned(cloud)
    whole = template.astype(np.float64)
    rough = _best_pose(cloud, _start(cloud), halved(whole), 2 * pitch, COARSE_ANGLES)
    return _best_pose(cloud, rough, whole, pitch, fine_angles(rough.angle))


def plan_view(cloud: PlanCloud, values: _Float, pose: Pose, *, size: int, side: float) -> SurfaceImage:
    """Values of the points as an image from above, in the template's pose.

    Args:
        cloud: the part.
        values: `[N, 3]`, 0-255, of `normal_colours` or `point_colours`.
        pose: of `find_pose`.
        size: rows and columns of the image.
        side: length of its edge, metres.

    Returns:
        float32 `[size, size, 3]`, 0-255; 0 in all channels off the part. Gaps of the measurement are filled.
    """
    pitch = side / size
    target = plan_pixels(cloud, pose, size=size, side=side)
    seen = _seen_from_above(target, cloud.position[:, 2], size)
    spot = max(1.0, cloud.pitch / pitch)
    sums = _splat(target[seen], np.column_stack([np.ones(seen.sum()), values[seen]]), size)
    sums = smoothed(sums, _SPREAD * spot)
    known = sums[0] > _LEAST_WEIGHT / spot**2
    image = np.where(known, sums[1:] / np.where(known, sums[0], 1), 0)
    return np.moveaxis(_fill_gaps(image, known, _CLOSED / pitch), 0, 2).astype(np.float32)


def plan_pixels(cloud: PlanCloud, pose: Pose, *, size: int, side: float) -> _Float:
    """Row and column of each point in the plan view, float64 `[N, 2]`, pixel centres at whole numbers.

    With these and `cloud.pixels` a map over the plan view is carried back to the sensor's image.
    """
    place = times(cloud.position[:, :2] - (pose.x, pose.y), _turn(pose.angle))
    return place[:, ::-1] * (size / side) + (size - 1) / 2


def normal_colours(cloud: PlanCloud, pose: Pose) -> _Float:
    """Normals in the template's pose as colours `[N, 3]`, -1 to 1 mapped to 0-255."""
    turned = np.column_stack([times(cloud.normals[:, :2], _turn(pose.angle)), cloud.normals[:, 2]])
    return (turned + 1) * 127.5


def point_colours(cloud: PlanCloud, rgb: RgbImage) -> _Float:
    """Colours of the points `[N, 3]`, 1-255 (0 is background), from the image registered with the cloud."""
    return np.maximum(rgb[cloud.pixels[0], cloud.pixels[1]].astype(np.float64), 1)


def _turn(angle: float) -> _Float:
    """The matrix that turns row vectors by -`angle`."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def _thinned(cloud: PlanCloud) -> PlanCloud:
    part = slice(None, None, _THINNED)
    return PlanCloud(cloud.position[part], cloud.normals[part], cloud.pixels[:, part], cloud.pitch)


def _start(cloud: PlanCloud) -> Pose:
    x, y = cloud.position[:, :2].mean(axis=0)
    return Pose(0.0, float(x), float(y))


def _best_pose(cloud: PlanCloud, start: Pose, template: _Float, pitch: float, angles: _Float) -> Pose:
    def draw(angle: float) -> _Float:
        return _draw_coarse(cloud, Pose(angle, start.x, start.y), pitch, template.shape[-1])

    angle, rows, columns = best_match(draw, template, angles)
    x, y = np.array([start.x, start.y]) + (np.array([columns, rows]) * pitch) @ _turn(angle).T
    return Pose(angle, float(x), float(y))


def _draw_coarse(cloud: PlanCloud, pose: Pose, pitch: float, size: int) -> _Float:
    """Mean of the turned normals' components along the plane and of the coverage per pixel, `[3, size, size]`."""
    place = times(cloud.position[:, :2] - (pose.x, pose.y), _turn(pose.angle)) / pitch + size / 2
    cell = np.floor(place).astype(np.int64)
    inside = _inside(cell, size)
    index = cell[inside, 1] * size + cell[inside, 0]
    normals = times(cloud.normals[inside, :2], _turn(pose.angle))
    count = np.bincount(index, minlength=size * size)
    image = np.stack([np.bincount(index, column, size * size) for column in normals.T] + [_MASK_WEIGHT * count])
    return (image / np.maximum(count, 1)).reshape(3, size, size)


def _inside(cell: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.bool_]:
    """Which cells `[N, 2]` lie in a grid, bool `[N]`."""
    first, second = ((column >= 0) & (column < size) for column in cell.T)
    return np.asarray(first & second)


def _seen_from_above(target: _Float, height: _Float, size: int) -> npt.NDArray[np.bool_]:
    cell = np.rint(target).astype(np.int64)
    inside = _inside(cell, size)
    top = np.full((size, size), -np.inf)
    rows, columns = cell[inside].T
    np.maximum.at(top, (rows, columns), height[inside])
    top = scipy.ndimage.maximum_filter(top, 3)
    inside[inside] = height[inside] >= top[rows, columns] - _OCCLUDED
    return inside


def _splat(target: _Float, values: _Float, size: int) -> _Float:
    """Sums `[C, size, size]` of values `[N, C]` shared among the four pixels around each target `[N, 2]`."""
    edge = size + 2  # a margin catches the shares that fall outside
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
    """Fill what a morphological closing by `reach` pixels adds to `known`, by normalised convolution."""
    width = 2 * max(round(reach), 1) + 1
    closed = scipy.ndimage.minimum_filter(scipy.ndimage.maximum_filter(np.pad(known, width), width), width)[
        width:-width, width:-width
    ]
    sums = smoothed(np.concatenate([known[None], image]), width / 4)
    smooth = sums[1:] / np.maximum(sums[0], 1e-6)
    return np.where(known, image, np.where(closed, smooth, 0))
