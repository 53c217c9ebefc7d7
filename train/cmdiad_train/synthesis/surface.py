"""The surface of a scene as rasters over the support plane: height, colour, gloss.

Lengths inside `cmdiad_train.synthesis` are millimetres; only the xyz that a sensor gives out is in metres.
Coordinates on the support plane: u to the right, v down (as in an image), w up, towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_dilation

Raster = npt.NDArray[np.float32]
"""float32 `[n, n]`, row = v, column = u."""
ColourRaster = npt.NDArray[np.float32]
"""float32 `[n, n, 3]`, linear reflectance, RGB order, 0-1."""
Flags = npt.NDArray[np.bool_]
"""bool `[n, n]`."""
Colour = tuple[float, float, float]
"""Linear reflectance, RGB order, 0-1."""

SAFE_HEIGHT = 6.0
"""Millimetres. MVTec's preprocessing removes all within 5 mm of the plane; defects must stay above that."""


@dataclass(frozen=True)
class Grid:
    """A square raster centred on the part.

    Attributes:
        cell: width of a cell in millimetres.
        cells: cells along each side.
    """

    cell: float
    cells: int

    @cached_property
    def u(self) -> Raster:
        """float32 `[n, n]`, millimetres to the right of the centre."""
        return np.broadcast_to(self._axis, (self.cells, self.cells))

    @cached_property
    def v(self) -> Raster:
        """float32 `[n, n]`, millimetres below the centre."""
        return np.broadcast_to(self._axis[:, None], (self.cells, self.cells))

    @cached_property
    def _axis(self) -> npt.NDArray[np.float32]:
        centred = np.arange(self.cells, dtype=np.float32) - np.float32((self.cells - 1) / 2)
        return centred * np.float32(self.cell)

    def index(self, position: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Nearest cell index of a coordinate in millimetres, clipped to the raster."""
        nearest = np.rint(np.asarray(position) / self.cell + (self.cells - 1) / 2)
        return np.clip(nearest, 0, self.cells - 1).astype(np.intp)

    def window(self, u: float, v: float, radius: float) -> tuple[slice, slice]:
        """Rows and columns of the square of half width `radius` (mm) around (u, v)."""
        row, row_end, column, column_end = self.index([v - radius, v + radius, u - radius, u + radius])
        return slice(int(row), int(row_end) + 1), slice(int(column), int(column_end) + 1)


@dataclass(frozen=True)
class Surface:
    """What lies on the support plane, before any camera looks at it.

    Attributes:
        grid: where the cells lie.
        height: float32 `[n, n]`, millimetres above the support plane, exactly 0 on the bare plane.
        albedo: float32 `[n, n, 3]`, linear reflectance, RGB order, 0-1.
        gloss: float32 `[n, n]`, weight of the mirror-like reflection, 0-1.
        part: bool `[n, n]`, True on the part.
    """

    grid: Grid
    height: Raster
    albedo: ColourRaster
    gloss: Raster
    part: Flags


def smoothstep(low: float, high: float, x: Raster) -> Raster:
    """Hermite ramp from 0 at `low` to 1 at `high` (3t² - 2t³); float32, shape of `x`."""
    t = np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def box_distance(u: Raster, v: Raster, half_u: float, half_v: float, corner: float) -> Raster:
    """Signed distance (mm, negative inside) to a rectangle with rounded corners.

    Source: I. Quilez, "2D distance functions", rounded box.
    """
    right = np.abs(u) - np.float32(half_u - corner)
    below = np.abs(v) - np.float32(half_v - corner)
    outside = np.hypot(np.maximum(right, 0), np.maximum(below, 0))
    return outside + np.minimum(np.maximum(right, below), 0) - np.float32(corner)


def smooth_noise(rng: np.random.Generator, grid: Grid, scale: float, scale_v: float | None = None) -> Raster:
    """Value noise: normal draws on a coarse lattice, bicubic in between; mean 0, variance below 1.

    Args:
        rng: where the draws come from.
        grid: raster to fill.
        scale: lattice spacing in millimetres along u.
        scale_v: lattice spacing along v, the same as `scale` if None.
    """
    width = grid.cell * grid.cells
    knots_u, knots_v = (max(2, min(grid.cells, round(width / s))) for s in (scale, scale_v or scale))
    lattice = rng.standard_normal((knots_v, knots_u), dtype=np.float32)
    return resize(lattice, grid.cells)


def resize(raster: Raster, cells: int, *, box: bool = False) -> Raster:
    """Bicubic (or, to shrink, box-averaged) resampling to `[cells, cells]`, float32."""
    method = Image.Resampling.BOX if box else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(raster).resize((cells, cells), method), dtype=np.float32)


def paint(albedo: ColourRaster, colour: Colour, weight: Raster) -> ColourRaster:
    """Blend `colour` over `albedo` with `weight` `[..]` in 0-1; returns a new float32 `[.., 3]`."""
    return albedo + weight[..., None] * (np.asarray(colour, dtype=np.float32) - albedo)


def stand(
    rng: np.random.Generator,
    grid: Grid,
    part: Flags,
    *,
    height: Raster,
    material: ColourRaster,
    gloss: Raster | float,
    pad: Colour,
) -> Surface:
    """Cut the part out of its rasters and stand it on a pad of the given colour.

    The material reaches one cell further than the part, so that its walls, which slope down within that cell, have
    the part's colour from top to bottom.
    """
    coloured = binary_dilation(part, np.ones((3, 3), dtype=np.bool_))
    return Surface(
        grid=grid,
        height=np.where(part, height, 0).astype(np.float32),
        albedo=np.where(coloured[..., None], material, bare_plane(rng, grid, pad)).astype(np.float32),
        gloss=np.where(part, gloss, 0.01).astype(np.float32),
        part=part,
    )


def bare_plane(rng: np.random.Generator, grid: Grid, colour: Colour) -> ColourRaster:
    """Faintly textured matt pad of the given base colour, float32 `[n, n, 3]`."""
    texture = 1 + 0.06 * smooth_noise(rng, grid, 0.7) + 0.05 * smooth_noise(rng, grid, 9.0)
    return texture[..., None] * np.asarray(colour, dtype=np.float32)
