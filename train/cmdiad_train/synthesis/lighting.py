"""Light on a height field: Lambert and Blinn-Phong reflection, cast shadows, ambient occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from cmdiad_train.synthesis.camera import Pose, Vector
from cmdiad_train.synthesis.surface import ColourRaster, Grid, Raster, Surface, resize

SHININESS = 24.0
"""Exponent of the mirror-like lobe (Blinn 1977)."""


@dataclass(frozen=True)
class Light:
    """One lamp and the light that the room gives back.

    Attributes:
        direction: float64 `[3]`, unit vector in the camera frame, from the part towards the lamp.
        colour: float64 `[3]`, RGB strength of the lamp; 1 lights a surface facing it to its albedo.
        ambient: strength of the light from all sides, relative to the lamp.
    """

    direction: Vector
    colour: Vector
    ambient: float


def random_light(rng: np.random.Generator) -> Light:
    """A lamp at the upper left; direction, strength and colour temperature vary a little."""
    azimuth, elevation = np.deg2rad([rng.uniform(219, 231), rng.uniform(38, 42)])
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), -np.sin(elevation)])
    warmth = rng.normal(0, 0.015)
    colour = rng.normal(1.0, 0.025) * np.array([1 + warmth, 1.0, 1 - warmth])
    return Light(direction, colour, ambient=rng.uniform(0.32, 0.38))


def shade(surface: Surface, pose: Pose, light: Light) -> ColourRaster:
    """Radiance that leaves each cell towards the camera, linear, float32 `[n, n, 3]`.

    Source: J. Blinn, "Models of light reflection for computer synthesized pictures", SIGGRAPH 1977:
    albedo * n·l + gloss * (n·h)^s, with n the normal, l towards the lamp, h halfway between lamp and camera.
    """
    to_lamp, to_camera = pose.axes @ light.direction, pose.axes @ (-pose.origin / np.linalg.norm(pose.origin))
    halfway = (to_lamp + to_camera) / np.linalg.norm(to_lamp + to_camera)
    normal = normals(surface.grid, surface.height)
    lit = cast_shadow(surface.grid, surface.height, to_lamp)
    diffuse = lit * np.maximum(_dot(normal, to_lamp), 0)
    diffuse += np.float32(light.ambient) * ambient_occlusion(surface.grid, surface.height)
    mirror = lit * surface.gloss * np.maximum(_dot(normal, halfway), 0) ** np.float32(SHININESS)
    radiance = surface.albedo * diffuse[..., None] + mirror[..., None]
    return (radiance * light.colour).astype(np.float32)


def normals(grid: Grid, height: Raster) -> tuple[Raster, Raster, Raster]:
    """Unit normals of the height field as three float32 `[n, n]` rasters (along u, v, up)."""
    slope_v, slope_u = np.gradient(height, np.float32(grid.cell))
    length = np.sqrt(1 + slope_u * slope_u + slope_v * slope_v)
    return -slope_u / length, -slope_v / length, 1 / length


def _dot(normal: tuple[Raster, Raster, Raster], direction: Vector) -> Raster:
    u, v, up = direction.astype(np.float32)
    return normal[0] * u + normal[1] * v + normal[2] * up


def cast_shadow(grid: Grid, height: Raster, to_lamp: Vector, *, softness: float = 0.8) -> Raster:
    """How much of a lamp each cell sees, 0-1, float32 `[n, n]`.

    Args:
        grid: the raster of `height`.
        height: float32 `[n, n]`, mm.
        to_lamp: float64 `[3]`, direction towards the lamp along u, v, up.
        softness: millimetres of cover between the first and the full shadow.
    """
    level = float(np.hypot(to_lamp[0], to_lamp[1]))
    climb, step = to_lamp[2] / level, max(0.75, grid.cell)
    cover = np.zeros_like(height)
    for distance in np.arange(step, height.max() / climb, step):
        rows, columns = (round(to_lamp[i] / level * distance / grid.cell) for i in (1, 0))
        here, there = _overlap(rows, grid.cells), _overlap(columns, grid.cells)
        blocker = height[here[1], there[1]] - height[here[0], there[0]] - np.float32(climb * distance)
        np.maximum(cover[here[0], there[0]], blocker, out=cover[here[0], there[0]])
    return 1 - np.clip(cover / np.float32(softness), 0, 1)


def _overlap(shift: int, cells: int) -> tuple[slice, slice]:
    """Slices of the cells that have a neighbour `shift` further on, and of those neighbours."""
    if shift >= 0:
        return slice(0, cells - shift), slice(shift, cells)
    return slice(-shift, cells), slice(0, cells + shift)


def ambient_occlusion(grid: Grid, height: Raster, *, reach: float = 2.2) -> Raster:
    """Share of the ambient light that reaches each cell, float32 `[n, n]`.

    An approximation: the further a cell lies under the mean height around it (`reach` mm), the less light it gets.
    """
    coarse = grid.cells // 3
    surroundings = gaussian_filter(resize(height, coarse, box=True), reach / (grid.cell * grid.cells / coarse))
    return np.exp(np.float32(-0.22) * np.maximum(resize(surroundings, grid.cells) - height, 0))
