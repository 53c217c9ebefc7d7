"""The surface of a scene as rasters over the support plane: height, colour, gloss.

Lengths inside `cmdiad_train.synthesis` are in millimetres; only the clouds of the sensor are in metres.
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
"""Raster float32 `[n, n]`, row = v, column = u."""
ColourRaster = npt.NDArray[np.float32]
"""Raster float32 `[n, n, 3]`, linear reflectance, RGB order, 0-1."""
Flags = npt.NDArray[np.bool_]
"""Raster bool `[n, n]`."""
Colour = tuple[float, float, float]
"""Linear reflectance, RGB order, 0-1."""

SAFE_HEIGHT = 6.0
"""Height in millimetres that defects must not go below: preprocessing removes all points up to 5 mm."""


@dataclass(frozen=True)
class Grid:
    """A square raster centred on the part.

    Attributes:
        cell: Width of a cell in millimetres.
        cells: Number of cells along each side.
    """

    cell: float
    cells: int

    @cached_property
    def u(self) -> Raster:
        """Return the distance to the right of the centre, float32 `[n, n]`, mm."""
        return np.broadcast_to(self._axis, (self.cells, self.cells))

    @cached_property
    def v(self) -> Raster:
        """Return the distance below the centre, float32 `[n, n]`, mm."""
        return np.broadcast_to(self._axis[:, None], (self.cells, self.cells))

    @cached_property
    def _axis(self) -> npt.NDArray[np.float32]:
        centred = np.arange(self.cells, dtype=np.float32) - np.float32((self.cells - 1) / 2)
        return centred * np.float32(self.cell)

    def index(self, position: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Return the index of the cell nearest to a coordinate in millimetres, clipped to the raster."""
        nearest = np.rint(np.asarray(position) / self.cell + (self.cells - 1) / 2)
        return np.clip(nearest, 0, self.cells - 1).astype(np.intp)

    def window(self, u: float, v: float, radius: float) -> tuple[slice, slice]:
        """Return rows and columns of the square of half width `radius` (mm) around (u, v)."""
        row, row_end, column, column_end = self.index([v - radius, v + radius, u - radius, u + radius])
        return slice(int(row), int(row_end) + 1), slice(int(column), int(column_end) + 1)


@dataclass(frozen=True)
class Surface:
    """The part and its support plane as rasters.

    Attributes:
        grid: Grid of the rasters.
        height: Height above the support plane float32 `[n, n]`, mm, exactly 0 on the bare plane.
        albedo: Linear reflectance float32 `[n, n, 3]`, RGB order, 0-1.
        gloss: Weight of the specular reflection float32 `[n, n]`, 0-1.
        part: True on the part, bool `[n, n]`.
    """

    grid: Grid
    height: Raster
    albedo: ColourRaster
    gloss: Raster
    part: Flags


def smoothstep(low: float, high: float, x: Raster) -> Raster:
    """Return the Hermite ramp from 0 at `low` to 1 at `high` (3t² - 2t³), float32, in the shape of `x`."""
    t = np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def box_distance(u: Raster, v: Raster, half_u: float, half_v: float, corner: float) -> Raster:
    """Return the signed distance to a rectangle with rounded corners, mm, negative inside.

    Source: I. Quilez, "2D distance functions", rounded box.
    """
    right = np.abs(u) - np.float32(half_u - corner)
    below = np.abs(v) - np.float32(half_v - corner)
    outside = np.hypot(np.maximum(right, 0), np.maximum(below, 0))
    return outside + np.minimum(np.maximum(right, below), 0) - np.float32(corner)


def smooth_noise(rng: np.random.Generator, grid: Grid, scale: float, scale_v: float | None = None) -> Raster:
    """Draw value noise: normal values on a coarse lattice with bicubic interpolation; mean 0, variance below 1.

    Args:
        rng: Random generator.
        grid: Grid of the noise.
        scale: Lattice spacing along u, mm.
        scale_v: Lattice spacing along v, mm; the same as `scale` if None.
    """
    width = grid.cell * grid.cells
    knots_u, knots_v = (max(2, min(grid.cells, round(width / s))) for s in (scale, scale_v or scale))
    lattice = rng.standard_normal((knots_v, knots_u), dtype=np.float32)
    return resize(lattice, grid.cells)


def resize(raster: Raster, cells: int, *, box: bool = False) -> Raster:
    """Resample a raster to float32 `[cells, cells]`, bicubic, or with box averages for a reduction."""
    method = Image.Resampling.BOX if box else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(raster).resize((cells, cells), method), dtype=np.float32)


def paint(albedo: ColourRaster, colour: Colour, weight: Raster) -> ColourRaster:
    """Blend a colour over an albedo with a weight `[..]` in 0-1. Return a new float32 `[.., 3]`."""
    return albedo + weight[..., None] * (np.asarray(colour, dtype=np.float32) - albedo)


@dataclass(frozen=True)
class Finish:
    """The optical properties of a part and of the pad below.

    Attributes:
        material: Linear reflectance of the part float32 `[n, n, 3]`, RGB order, 0-1.
        gloss: Weight of the specular reflection of the part, 0-1, one value or float32 `[n, n]`.
        pad: Base colour of the pad.
    """

    material: ColourRaster
    gloss: Raster | float
    pad: Colour


def stand(rng: np.random.Generator, grid: Grid, part: Flags, height: Raster, finish: Finish) -> Surface:
    """Cut the part out of its rasters and place the part on a pad.

    The material reaches one cell beyond the part, because the walls slope down within that cell and must have the
    colour of the part from top to bottom.

    Args:
        rng: Random generator for the texture of the pad.
        grid: Grid of the rasters.
        part: Cells of the part.
        height: Height of the part, mm; ignored outside the part.
        finish: Colours and gloss.
    """
    coloured = binary_dilation(part, np.ones((3, 3), dtype=np.bool_))
    return Surface(
        grid=grid,
        height=np.where(part, height, 0).astype(np.float32),
        albedo=np.where(coloured[..., None], finish.material, bare_plane(rng, grid, finish.pad)).astype(np.float32),
        gloss=np.where(part, finish.gloss, 0.01).astype(np.float32),
        part=part,
    )


def bare_plane(rng: np.random.Generator, grid: Grid, colour: Colour) -> ColourRaster:
    """Return a slightly textured matt pad of a base colour, float32 `[n, n, 3]`."""
    texture = 1 + 0.06 * smooth_noise(rng, grid, 0.7) + 0.05 * smooth_noise(rng, grid, 9.0)
    return texture[..., None] * np.asarray(colour, dtype=np.float32)
