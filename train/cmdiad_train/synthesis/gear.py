"""The kind "gear": moulded plastic with an even surface, a stepped shape and one printed index mark."""

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

TEETH = 20
ROOT_RADIUS, TIP_RADIUS, BORE_RADIUS = 20.8, 24.2, 3.6
RIM_HEIGHT, WEB_DROP, HUB_RISE = 11.0, 1.8, 1.8
EJECTOR_MARKS, EJECTOR_RADIUS, EJECTOR_CIRCLE = 5, 1.8, 12.6


def build_gear(rng: np.random.Generator, grid: Grid) -> Surface:
    """Build one gear. Small differences between pieces imitate moulding."""
    radius: Raster = np.hypot(grid.u, grid.v)
    to_outline = _outline(grid) - radius
    part = (to_outline > 0) & (radius > BORE_RADIUS)
    height = _relief(rng, grid, radius) - _chamfer(to_outline) - _chamfer(radius - np.float32(BORE_RADIUS))
    material, pad = _plastic(rng, grid), (0.045, 0.045, 0.05)
    return stand(rng, grid, part, height, Finish(material, gloss=0.16, pad=pad))


def _outline(grid: Grid) -> Raster:
    """Return the radius of the toothed outline in the direction of each cell, mm."""
    wave = np.cos(TEETH * np.arctan2(grid.v, grid.u))
    return ROOT_RADIUS + (TIP_RADIUS - ROOT_RADIUS) * smoothstep(-0.55, 0.55, wave)


def _chamfer(inside: Raster) -> Raster:
    """Return the depth of a chamfered edge below the face, mm, at the distance `inside` (mm) from the edge."""
    return 0.6 * np.square(1 - np.clip(inside / 0.9, 0, 1))


def _relief(rng: np.random.Generator, grid: Grid, radius: Raster) -> Raster:
    web = smoothstep(7.8, 8.6, radius) * (1 - smoothstep(16.6, 17.4, radius))
    hub = 1 - smoothstep(7.0, 7.8, radius)
    height = RIM_HEIGHT + rng.normal(0, 0.06) - WEB_DROP * web + HUB_RISE * hub
    marks = 0.25 * (1 - smoothstep(-0.3, 0.0, _to_ejector_mark(grid)))
    return height - marks + 0.02 * smooth_noise(rng, grid, 6.0)


def _to_ejector_mark(grid: Grid) -> Raster:
    """Return the signed distance to the nearest round ejector pin mark in the web, mm, negative inside."""
    distances = [
        np.hypot(grid.u - EJECTOR_CIRCLE * np.cos(angle), grid.v - EJECTOR_CIRCLE * np.sin(angle))
        for angle in np.arange(EJECTOR_MARKS, dtype=np.float32) * np.float32(2 * np.pi / EJECTOR_MARKS)
    ]
    return np.minimum.reduce(distances) - EJECTOR_RADIUS


def _plastic(rng: np.random.Generator, grid: Grid) -> ColourRaster:
    batch = np.array([0.22, 0.40, 0.52]) * (1 + rng.normal(0, 0.02)) + rng.normal(0, 0.004, 3)
    flow = 1 + 0.02 * smooth_noise(rng, grid, 12.0) + 0.015 * smooth_noise(rng, grid, 0.6)
    index_mark = box_distance(grid.u - rng.normal(0, 0.15), grid.v + 19.2, 2.6, 0.7, 0.2)
    return paint(flow[..., None] * batch.astype(np.float32), (0.8, 0.8, 0.75), _inked(index_mark))


def _inked(distance: Raster) -> Raster:
    return 0.9 * (1 - smoothstep(-0.15, 0.15, distance))
