"""A pinhole camera above a height field, and the pose of the scene in the camera frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter

from cmdiad_train.synthesis.surface import Grid, Raster

Vector = npt.NDArray[np.float64]
"""Vectors float64 `[3]` or `[.., 3]` in the camera frame: x right, y down, z away from the camera."""

FIELD_OF_VIEW = 72.0
"""Millimetres of the support plane along each side of the image, for every image size."""
DISTANCE = 400.0
"""Distance from the camera to the support plane in millimetres."""


@dataclass(frozen=True)
class Camera:
    """A square pinhole camera: a crop of a larger sensor as in MVTec 3D-AD.

    Attributes:
        size: Pixels along each side.
    """

    size: int

    @property
    def focal(self) -> float:
        """Return the focal length in pixels."""
        return self.size * DISTANCE / FIELD_OF_VIEW

    @property
    def centre(self) -> float:
        """Return the column (= row) of the principal point. It is outside the crop, so no x or y is ever 0."""
        return -0.05 * self.size

    def rays(self) -> Vector:
        """Return the directions through the pixel centres, float64 `[h, w, 3]`, scaled to z = 1."""
        offset = (np.arange(self.size) - self.centre) / self.focal
        x, y = np.meshgrid(offset, offset)
        return np.stack([x, y, np.ones_like(x)], axis=-1)


@dataclass(frozen=True)
class Pose:
    """The pose of the scene in the camera frame.

    Attributes:
        origin: Centre of the surface raster on the support plane, float64 `[3]`, mm.
        axes: Rows u, v, w: unit vectors along the raster's columns, along its rows, and up, float64 `[3, 3]`.
    """

    origin: Vector
    axes: Vector


def random_pose(rng: np.random.Generator, camera: Camera) -> Pose:
    """Draw the pose of a part in a fixture: turned by up to ±5°, shifted by up to ±2 mm, plane tilted by 1-2.5°."""
    middle = ((camera.size - 1) / 2 - camera.centre) / camera.focal
    distance = DISTANCE + rng.uniform(-2, 2)
    shift = rng.uniform(-2, 2, 2)
    up = np.array([0.025 + rng.normal(0, 0.005), -0.02 + rng.normal(0, 0.005), -1.0])
    turn = np.deg2rad(rng.uniform(-5, 5))
    axes = _axes(up / np.linalg.norm(up), turn)
    unturned = _axes(axes[2], 0.0)
    return Pose(distance * np.array([middle, middle, 1.0]) + shift @ unturned[:2], axes)


def _axes(up: Vector, turn: float) -> Vector:
    across = np.array([np.cos(turn), np.sin(turn), 0.0])
    u = across - (across @ up) * up
    u /= np.linalg.norm(u)
    return np.stack([u, np.cross(u, up), up])  # u, v as in an image: v = u x up points down


@dataclass(frozen=True)
class View:
    """The points where the rays of the pixels meet the surface.

    Attributes:
        points: Points float64 `[h, w, 3]`, mm, camera frame.
        rows: Fractional row of the surface raster, float32 `[h, w]`.
        columns: Fractional column of the surface raster, float32 `[h, w]`.
    """

    points: Vector
    rows: npt.NDArray[np.float32]
    columns: npt.NDArray[np.float32]

    def sample(self, raster: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Interpolate a raster `[n, n]` or `[n, n, c]` bilinearly at the pixels, float32 `[h, w]` or `[h, w, c]`."""
        return _bilinear(raster, self.rows, self.columns)

    def nearest(self, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the flags of the nearest cells, bool `[h, w]`."""
        last = flags.shape[0] - 1
        rows, columns = (np.clip(np.rint(at), 0, last).astype(np.intp) for at in (self.rows, self.columns))
        return flags[rows, columns]


def look(camera: Camera, pose: Pose, grid: Grid, height: Raster) -> View:
    """Intersect the rays of all pixels with a height field.

    Each ray is an affine function of the height w above the plane: the ray meets that level in the cell
    `foot + w * slope`, at the depth z = (w + up·origin) / (up·ray).

    Args:
        camera: Pinhole camera.
        pose: Pose of the surface.
        grid: Grid of the raster `height`.
        height: Height of the surface float32 `[n, n]`, mm.
    """
    rays = camera.rays()
    along_u, along_v, along_up = (rays @ axis for axis in pose.axes)
    offset_u, offset_v, offset_up = pose.axes @ pose.origin
    half = (grid.cells - 1) / 2
    tangent_u, tangent_v = along_u / along_up / grid.cell, along_v / along_up / grid.cell
    foot_column = (offset_up * tangent_u - offset_u / grid.cell + half).astype(np.float32)
    foot_row = (offset_up * tangent_v - offset_v / grid.cell + half).astype(np.float32)
    slope_row, slope_column = tangent_v.astype(np.float32), tangent_u.astype(np.float32)
    level = _first_hit(height, foot_row, foot_column, slope_row, slope_column)
    depth = (level + offset_up) / along_up
    return View(rays * depth[..., None], foot_row + level * slope_row, foot_column + level * slope_column)


def _first_hit(
    height: Raster, foot_row: Raster, foot_column: Raster, slope_row: Raster, slope_column: Raster
) -> Raster:
    """Return the height at which each ray first meets the surface from above, mm, exactly 0 on the bare plane."""
    top = float(height.max())
    reach = int(np.ceil(top * max(np.abs(slope_row).max(), np.abs(slope_column).max()))) + 2
    ceiling = maximum_filter(height, size=2 * reach + 1, mode="nearest")
    level = np.zeros(foot_row.size, dtype=np.float32)
    lines = [part.ravel() for part in (foot_row, foot_column, slope_row, slope_column)]
    upper = _nearest(ceiling, lines[0], lines[1])
    over_part = np.flatnonzero(upper > 0)
    lines = [line[over_part] for line in lines]
    low, high = _bracket(height, lines, upper[over_part])
    level[over_part] = _bisect(height, lines, low, high)
    return level.reshape(foot_row.shape)


def _bracket(height: Raster, lines: list[Raster], upper: Raster, step: float = 1.0) -> tuple[Raster, Raster]:
    """March down the rays until they are below the surface. Return the levels below and above the surface.

    The levels are multiples of the step, so a local change of the surface does not move hits elsewhere.
    """
    low = np.float32(step) * np.ceil(upper / np.float32(step) + np.float32(1e-3))
    high = low.copy()
    active = np.arange(low.size)
    while active.size:
        high[active] = low[active]
        low[active] -= np.float32(step)
        above = _clearance(height, [line[active] for line in lines], low[active]) > 0
        active = active[above & (low[active] > 0)]
    return np.maximum(low, 0), high


def _bisect(height: Raster, lines: list[Raster], low: Raster, high: Raster, halvings: int = 4) -> Raster:
    """Halve the bracket, then intersect the chord. Return exactly 0 for a ray that reaches the plane."""
    for _ in range(halvings):
        middle = (low + high) * np.float32(0.5)
        above = _clearance(height, lines, middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    under, over = _clearance(height, lines, low), _clearance(height, lines, high)
    chord = low + (high - low) * np.clip(-under / np.maximum(over - under, 1e-6), 0, 1)
    return np.where((low == 0) & (under >= 0), 0, chord).astype(np.float32)


def _clearance(height: Raster, lines: list[Raster], level: Raster) -> Raster:
    """Return the distance of the ray above the surface at a level, mm."""
    foot_row, foot_column, slope_row, slope_column = lines
    return level - _bilinear(height, foot_row + level * slope_row, foot_column + level * slope_column)


def _nearest(raster: Raster, rows: Raster, columns: Raster) -> Raster:
    last = raster.shape[0] - 1
    at = np.clip(np.rint(rows), 0, last).astype(np.intp), np.clip(np.rint(columns), 0, last).astype(np.intp)
    return raster[at]


def _bilinear(raster: npt.NDArray[np.float32], rows: Raster, columns: Raster) -> npt.NDArray[np.float32]:
    """Interpolate `[n, n]` or `[n, n, c]` bilinearly; positions outside get the value at the border."""
    n = raster.shape[0]
    rows, columns = np.clip(rows, 0, n - 1.001), np.clip(columns, 0, n - 1.001)
    row, column = rows.astype(np.int32), columns.astype(np.int32)
    down, right = rows - row, columns - column
    if raster.ndim == 3:
        down, right = down[..., None], right[..., None]
    flat, index = raster.reshape(n * n, *raster.shape[2:]), row * n + column
    above = flat[index] * (1 - right) + flat[index + 1] * right
    below = flat[index + n] * (1 - right) + flat[index + n + 1] * right
    return above * (1 - down) + below * down
