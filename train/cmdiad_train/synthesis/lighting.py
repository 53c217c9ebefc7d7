"""Light on a height field: Lambert and Blinn-Phong reflection, cast shadows, ambient occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from cmdiad_train.synthesis.camera import Pose, Vector
from cmdiad_train.synthesis.surface import ColourRaster, Grid, Raster, Surface, resize

SHININESS = 24.0
"""Exponent of the specular lobe (Blinn 1977)."""


@dataclass(frozen=True)
class Light:
    """One lamp and ambient light.

    Attributes:
        direction: Unit vector from the part towards the lamp in the camera frame, float64 `[3]`.
        colour: RGB strength of the lamp, float64 `[3]`; with 1, a surface facing the lamp is as bright as its albedo.
        ambient: Strength of the light from all sides, relative to the lamp.
    """

    direction: Vector
    colour: Vector
    ambient: float


def random_light(rng: np.random.Generator) -> Light:
    """Draw a lamp at the upper left with slightly varying direction, strength and colour temperature."""
    azimuth, elevation = np.deg2rad([rng.uniform(219, 231), rng.uniform(38, 42)])
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), -np.sin(elevation)])
    warmth = rng.normal(0, 0.015)
    colour = rng.normal(1.0, 0.025) * np.array([1 + warmth, 1.0, 1 - warmth])
    return Light(direction, colour, ambient=rng.uniform(0.32, 0.38))


def shade(surface: Surface, pose: Pose, light: Light) -> ColourRaster:
    """Compute the linear radiance of each cell towards the camera, float32 `[n, n, 3]`.

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
    """Return the unit normals of the height field as three float32 `[n, n]` rasters (along u, v, up)."""
    slope_v, slope_u = np.gradient(height, np.float32(grid.cell))
    length = np.sqrt(1 + slope_u * slope_u + slope_v * slope_v)
    return -slope_u / length, -slope_v / length, 1 / length


def _dot(normal: tuple[Raster, Raster, Raster], direction: Vector) -> Raster:
    u, v, up = direction.astype(np.float32)
    return normal[0] * u + normal[1] * v + normal[2] * up


def cast_shadow(grid: Grid, height: Raster, to_lamp: Vector, *, softness: float = 0.8) -> Raster:
    """Compute the share of a lamp that is visible from each cell, 0-1, float32 `[n, n]`.

    Args:
        grid: Grid of the raster `height`.
        height: Height of the surface float32 `[n, n]`, mm.
        to_lamp: Direction towards the lamp along u, v, up, float64 `[3]`.
        softness: Height of cover between the beginning of the shadow and the full shadow, mm.
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
    """Return slices of the cells that have a neighbour at the distance `shift`, and of these neighbours."""
    if shift >= 0:
        return slice(0, cells - shift), slice(shift, cells)
    return slice(-shift, cells), slice(0, cells + shift)


def ambient_occlusion(grid: Grid, height: Raster, *, reach: float = 2.2) -> Raster:
    """Approximate the share of the ambient light that reaches each cell, float32 `[n, n]`.

    The share decreases with the depth of a cell below the mean height of its surroundings (`reach` in mm).
    """
    coarse = grid.cells // 3
    surroundings = gaussian_filter(resize(height, coarse, box=True), reach / (grid.cell * grid.cells / coarse))
    return np.exp(np.float32(-0.22) * np.maximum(resize(surroundings, grid.cells) - height, 0))
