"""The kind "biscuit": rough and browned, with docking holes and randomly placed seeds."""

from __future__ import annotations

import numpy as np

from cmdiad_train.synthesis.surface import (
    ColourRaster,
    Finish,
    Grid,
    Raster,
    Surface,
    box_distance,
    paint,
    smooth_noise,
    smoothstep,
    stand,
)

HALF_WIDTH, HALF_DEPTH, CORNER = 24.0, 18.0, 5.0
SCALLOP, SCALLOP_PITCH = 0.55, 4.0
EDGE_HEIGHT, EDGE_RISE, EDGE_WIDTH = 6.5, 3.0, 3.5
SEEDS = 26


def build_biscuit(rng: np.random.Generator, grid: Grid) -> Surface:
    """Build one biscuit. Dough, browning and seeds differ between pieces."""
    inside = -_to_outline(rng, grid)
    part = inside > 0
    dough = 0.10 * smooth_noise(rng, grid, 1.6) + 0.16 * smooth_noise(rng, grid, 9.0)
    height = _profile(inside) + dough - _docking_holes(rng, grid)
    albedo = _crust(rng, grid, inside, dough)
    height, albedo = _sprinkle(rng, grid, height, albedo)
    return stand(rng, grid, part, height, Finish(albedo, gloss=0.03, pad=(0.05, 0.055, 0.065)))


def _to_outline(rng: np.random.Generator, grid: Grid) -> Raster:
    """Return the signed distance to the scalloped outline, mm, negative inside."""
    half_u, half_v = HALF_WIDTH + rng.normal(0, 0.2), HALF_DEPTH + rng.normal(0, 0.2)
    plain = box_distance(grid.u, grid.v, half_u, half_v, CORNER)
    on_long_side = np.abs(grid.v) - half_v > np.abs(grid.u) - half_u
    along = np.where(on_long_side, grid.u, grid.v)
    scallop: Raster = np.cos(along * np.float32(2 * np.pi / SCALLOP_PITCH))
    return plain - np.float32(SCALLOP) * scallop


def _profile(inside: Raster) -> Raster:
    """Return the height of a rounded edge (a quarter ellipse) and a slight dome, mm."""
    t = np.clip(inside / EDGE_WIDTH, 0, 1)
    return EDGE_HEIGHT + EDGE_RISE * np.sqrt(t * (2 - t)) + 0.04 * np.clip(inside - EDGE_WIDTH, 0, 15)


def _docking_holes(rng: np.random.Generator, grid: Grid) -> Raster:
    """Return the depth of the five by three pricked holes, mm."""
    depth = np.zeros((grid.cells, grid.cells), dtype=np.float32)
    for u in (-16.0, -8.0, 0.0, 8.0, 16.0):
        for v in (-10.0, 0.0, 10.0):
            centre_u, centre_v = np.array([u, v]) + rng.normal(0, 0.15, 2)
            area = grid.window(centre_u, centre_v, 1.6)
            distance = np.hypot(grid.u[area] - centre_u, grid.v[area] - centre_v)
            depth[area] = 1.3 * np.exp(-np.square(distance / 0.75))
    return depth


def _crust(rng: np.random.Generator, grid: Grid, inside: Raster, dough: Raster) -> ColourRaster:
    bake = rng.normal(0, 0.05)
    rim = np.exp(-np.clip(inside, 0, None) / 2.2)
    patches = 0.10 * smooth_noise(rng, grid, 7.0) + 0.07 * smooth_noise(rng, grid, 0.5)
    brown = np.clip(0.22 + bake + 0.55 * rim + patches + 0.5 * dough, 0, 1)
    pale = np.broadcast_to(np.array([0.66, 0.44, 0.20], dtype=np.float32), (*brown.shape, 3))
    return paint(pale, (0.30, 0.13, 0.04), brown)


def _sprinkle(
    rng: np.random.Generator, grid: Grid, height: Raster, albedo: ColourRaster
) -> tuple[Raster, ColourRaster]:
    """Add sesame seeds: pale ellipsoids, half sunk into the dough."""
    height, albedo = height.copy(), albedo.copy()
    for _ in range(SEEDS):
        centre = rng.uniform((-HALF_WIDTH + 4, -HALF_DEPTH + 4), (HALF_WIDTH - 4, HALF_DEPTH - 4))
        half_long, half_short = rng.normal(1.45, 0.1), rng.normal(0.85, 0.06)
        area = grid.window(centre[0], centre[1], 2.0)
        u, v = _turned(grid.u[area] - centre[0], grid.v[area] - centre[1], rng.uniform(0, np.pi))
        body = np.clip(1 - np.square(u / half_long) - np.square(v / half_short), 0, 1)
        height[area] += 0.35 * np.sqrt(body)
        seed_colour = (0.80 + rng.normal(0, 0.03), 0.66 + rng.normal(0, 0.03), 0.42)
        albedo[area] = paint(albedo[area], seed_colour, 0.9 * smoothstep(0.0, 0.3, body))
    return height, albedo


def _turned(u: Raster, v: Raster, angle: float) -> tuple[Raster, Raster]:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * u + sin * v, cos * v - sin * u
