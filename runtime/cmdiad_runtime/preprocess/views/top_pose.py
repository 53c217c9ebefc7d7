"""The pose of a part on its support plane, found by correlation with a template.

Parts lie in any direction, and a sensor that looks at the support obliquely sees a different picture of each. The
points are therefore moved to coordinates of the support plane, where a pose is a rotation and a shift. The template is
the mean of the training parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.cloud.support_plane import Plane
from cmdiad_runtime.preprocess.cloud.surface import normals_and_pitch
from cmdiad_runtime.preprocess.view_settings import TEMPLATE_SIZE, TopSettings, encode_template
from cmdiad_runtime.preprocess.views.template import (
    COARSE_ANGLES,
    TEMPLATE_MARGIN,
    VIEW_MARGIN,
    best_match,
    fine_angles,
    halved,
)
from cmdiad_runtime.preprocess.work.products import times
from cmdiad_runtime.sample import Mask, XyzImage

_ROUNDS = 3  # alignments of all parts to the mean of the previous round; the first mean is the first part
_THINNED = 6  # one point in this number suffices to find the pose
_MASK_WEIGHT = 0.5  # weight of coverage relative to the unit normal

_Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PartCloud:
    """A part's points in coordinates of its support plane.

    Attributes:
        position: Coordinates along two axes of the plane, and height above the plane, float64 `[N, 3]`, metres.
        normals: Unit normals in the same coordinates, the third upwards, float64 `[N, 3]`.
        pixels: Row and column of each point in the sensor's image, int64 `[2, N]`.
        pitch: Distance of neighbouring pixels on the part, metres.
    """

    position: _Float
    normals: _Float
    pixels: npt.NDArray[np.int64]
    pitch: float


@dataclass(frozen=True)
class Pose:
    """Rotation and position of a part on its support.

    Attributes:
        angle: Rotation relative to the template, radians.
        x: Centre of the part along the plane's first axis, metres.
        y: Centre of the part along the plane's second axis, metres.
    """

    angle: float
    x: float
    y: float


def part_cloud(xyz: XyzImage, mask: Mask, plane: Plane | None) -> PartCloud:
    """Return a part's points and normals in coordinates of the support plane.

    Args:
        xyz: Organised cloud in the sensor's coordinates, float32 `[h, w, 3]`, metres.
        mask: The part's pixels that carry a point, bool `[h, w]`.
        plane: Support plane; None uses a plane normal to the sensor's z axis.
    """
    normals, pitch = normals_and_pitch(xyz, mask)
    pixels = np.stack(np.nonzero(mask & (normals[..., 2] != 0)))  # A normal's z is never 0: see `surface_normals`.
    up = np.array([0.0, 0.0, -1.0]) if plane is None else plane.normal
    axes = plane_axes(up)
    position = times(xyz[pixels[0], pixels[1]], axes.T)
    if plane is not None:
        position[:, 2] += plane.offset
    return PartCloud(position, times(normals[pixels[0], pixels[1]], axes.T), pixels, pitch)


def plane_axes(normal: _Float) -> _Float:
    """Return unit vectors `[3, 3]`: the sensor's x axis projected on the plane, the other axis on it, the normal."""
    first = np.array([1.0, 0.0, 0.0]) - normal[0] * normal
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(first, normal), normal])


def pose_template(clouds: Sequence[PartCloud], pitch: float) -> npt.NDArray[np.float32]:
    """Return the mean of aligned parts, float32 `[3, 64, 64]`: two components of the normal, and coverage.

    Args:
        clouds: Normal parts.
        pitch: Size of a template pixel, metres; the template must contain a part in any direction.
    """
    template = _draw_coarse(_flat(clouds[0]), _start(clouds[0]), pitch, TEMPLATE_SIZE).astype(np.float32)
    for _ in range(_ROUNDS):
        images = [_draw_coarse(_flat(c), find_pose(c, template, pitch), pitch, TEMPLATE_SIZE) for c in clouds]
        template = np.mean(images, axis=0, dtype=np.float32)
    return template


def find_pose(cloud: PartCloud, template: npt.NDArray[np.float32], pitch: float) -> Pose:
    """Find the pose with the largest correlation with the template: all angles coarsely, then near the best.

    Args:
        cloud: Part.
        template: Template of `pose_template`, float32 `[3, 64, 64]`.
        pitch: Size of a template pixel, metres.
    """
    cloud = _thinned(cloud)
    whole = template.astype(np.float64)
    rough = _best_pose(cloud, _start(cloud), halved(whole), 2 * pitch, COARSE_ANGLES)
    return _best_pose(cloud, rough, whole, pitch, fine_angles(rough.angle))


def top_pixels(cloud: PartCloud, pose: Pose, *, size: int, side: float) -> _Float:
    """Return row and column of each point in the top view, float64 `[N, 2]`, pixel centres at whole numbers.

    With these and `cloud.pixels`, a map over the top view is resampled over the sensor's image.

    Args:
        cloud: Part.
        pose: Pose of the part.
        size: Rows and columns of the view.
        side: Length of the view's edge, metres.
    """
    position = times(cloud.position[:, :2] - (pose.x, pose.y), rotation(pose.angle))
    return position[:, ::-1] * (size / side) + (size - 1) / 2


def learn_top_settings(clouds: Sequence[PartCloud]) -> TopSettings:
    """Learn template and scale: every part fits the template in any direction, and the view in the template's pose.

    Args:
        clouds: Training parts; at least one.
    """
    radius = max(_radius(cloud) for cloud in clouds)
    pitch = 2 * TEMPLATE_MARGIN * radius / TEMPLATE_SIZE
    text = encode_template(pose_template(clouds, pitch))
    rough = TopSettings(2.0, pitch, text)  # in a view of two metres, pixels are half sides per metre
    reach = max(_reach(cloud, rough) for cloud in clouds)
    return TopSettings(2 * VIEW_MARGIN * reach, pitch, text)


def covered_area(xyz: XyzImage, mask: Mask, plane: Plane | None, pitch: float) -> float:
    """Return the area of the cells of a grid on the support plane that contain points, square metres.

    Args:
        xyz: Organised cloud in the sensor's coordinates, float32 `[h, w, 3]`, metres.
        mask: Pixels of the points, bool `[h, w]`.
        plane: Support plane; None uses a plane normal to the sensor's z axis.
        pitch: Edge of a cell, metres.
    """
    axes = plane_axes(np.array([0.0, 0.0, -1.0]) if plane is None else plane.normal)
    cells = np.floor(times(xyz[mask], axes[:2].T) / pitch).astype(np.int64)
    columns = cells[:, 0] - cells[:, 0].min()
    return len(np.unique(columns + cells[:, 1] * (columns.max() + 1))) * pitch**2


def covered_area_of_template(settings: TopSettings) -> float:
    """Return the area of the mean training part on the support plane, square metres; see `covered_area`."""
    return float(settings.array[2].sum()) / _MASK_WEIGHT * settings.pitch**2


def rotation(angle: float) -> _Float:
    """Return the matrix `[2, 2]` that rotates row vectors by -`angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def cells_inside(cell: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.bool_]:
    """Return whether each cell `[N, 2]` lies in a square grid, bool `[N]`."""
    first, second = ((column >= 0) & (column < size) for column in cell.T)
    return np.asarray(first & second)


def _thinned(cloud: PartCloud) -> PartCloud:
    """Return every sixth point of a part."""
    part = slice(None, None, _THINNED)
    return PartCloud(cloud.position[part], cloud.normals[part], cloud.pixels[:, part], cloud.pitch)


def _start(cloud: PartCloud) -> Pose:
    """Return the unrotated pose at the centroid of a part."""
    x, y = cloud.position[:, :2].mean(axis=0)
    return Pose(0.0, float(x), float(y))


def _best_pose(cloud: PartCloud, start: Pose, template: _Float, pitch: float, angles: _Float) -> Pose:
    """Return the pose with the largest correlation among some angles, around a starting position."""
    points = _flat(cloud)

    def draw(angle: float) -> _Float:
        return _draw_coarse(points, Pose(angle, start.x, start.y), pitch, template.shape[-1])

    angle, rows, columns = best_match(draw, template, angles)
    x, y = np.array([start.x, start.y]) + (np.array([columns, rows]) * pitch) @ rotation(angle).T
    return Pose(angle, float(x), float(y))


@dataclass(frozen=True)
class _FlatPoints:
    """Points along the support plane, one contiguous array float64 `[N]` for each number.

    Attributes:
        x: Coordinates along the first axis of the plane, metres.
        y: Coordinates along the second axis of the plane, metres.
        normal_x: Components of the unit normals along the first axis.
        normal_y: Components of the unit normals along the second axis.
    """

    x: _Float
    y: _Float
    normal_x: _Float
    normal_y: _Float


def _flat(cloud: PartCloud) -> _FlatPoints:
    """Return a part's points without their heights."""
    columns = *cloud.position.T[:2], *cloud.normals.T[:2]
    return _FlatPoints(*(np.ascontiguousarray(column) for column in columns))


def _draw_coarse(points: _FlatPoints, pose: Pose, pitch: float, size: int) -> _Float:
    """Draw the mean components of the rotated normals along the plane, and the coverage, `[3, size, size]`."""
    c, s = float(np.cos(pose.angle)), float(np.sin(pose.angle))
    x, y = points.x - pose.x, points.y - pose.y
    edge = size + 2  # the margin collects the points outside
    index = _cell(c * x + s * y, pitch, size) + edge * _cell(c * y - s * x, pitch, size) + (edge + 1)
    index = index.astype(np.int64)
    turned = c * points.normal_x + s * points.normal_y, c * points.normal_y - s * points.normal_x
    count = np.bincount(index, minlength=edge * edge)
    sums = [np.bincount(index, column, edge * edge) for column in turned]
    image = np.stack([*sums, _MASK_WEIGHT * count]) / np.maximum(count, 1)
    return image.reshape(3, edge, edge)[:, 1:-1, 1:-1]


def _cell(place: _Float, pitch: float, size: int) -> _Float:
    """Return the cell of each coordinate; -1 or `size` for all that lie outside. Overwrite `place`."""
    place /= pitch
    place += size / 2
    np.floor(place, out=place)
    return np.clip(place, -1, size, out=place)


def _radius(cloud: PartCloud) -> float:
    """Return the radius around the centroid that contains 99.9 % of the part's points, metres."""
    offsets = cloud.position[:, :2] - cloud.position[:, :2].mean(axis=0)
    return float(np.quantile(np.hypot(*offsets.T), 0.999))


def _reach(cloud: PartCloud, settings: TopSettings) -> float:
    """Return the distance from the centre, along an axis, that contains 99.9 % of the part's coordinates, metres."""
    position = top_pixels(cloud, find_pose(cloud, settings.array, settings.pitch), size=2, side=settings.side) - 0.5
    return float(np.quantile(np.abs(position), 0.999))
