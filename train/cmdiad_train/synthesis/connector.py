"""The kind "connector": dark plastic, deep pin cavities, a brushed metal shield and a printed label."""

from __future__ import annotations

import numpy as np

from cmdiad_train.synthesis.surface import (
    ColourRaster,
    Finish,
    Flags,
    Grid,
    Raster,
    Surface,
    box_distance,
    paint,
    smooth_noise,
    smoothstep,
    stand,
)

HALF_WIDTH, HALF_DEPTH, CORNER = 25.0, 17.0, 2.5
BODY_HEIGHT = 10.5
CAVITY_PITCH, CAVITY_HALF, CAVITY_DEPTH = 5.2, 1.3, 3.0
SHIELD_V, SHIELD_HALF, SHIELD_RISE = -12.0, 3.2, 0.8
LABEL_U, LABEL_V, LABEL_HALF_U, LABEL_HALF_V = 6.0, -1.0, 15.5, 5.6


def build_connector(rng: np.random.Generator, grid: Grid) -> Surface:
    """Build one connector. The label varies in position and has its own serial number as bars."""
    inside = -box_distance(grid.u, grid.v, HALF_WIDTH, HALF_DEPTH, CORNER)
    part, shield = inside > 0, _shield_weight(grid)
    height = BODY_HEIGHT + rng.normal(0, 0.05) + SHIELD_RISE * shield - CAVITY_DEPTH * _cavity_weight(grid)
    height = height + _ribs(grid) - 0.7 * np.square(1 - np.clip(inside / 1.2, 0, 1))
    height = height + 0.012 * smooth_noise(rng, grid, 0.8)
    material, pad = _materials(rng, grid, shield), (0.20, 0.19, 0.17)
    return stand(rng, grid, part, height, Finish(material, gloss=0.10 + 0.35 * shield, pad=pad))


def _shield_weight(grid: Grid) -> Raster:
    """Return 1 on the metal shield and 0 elsewhere."""
    return 1 - smoothstep(-0.3, 0.3, box_distance(grid.u, grid.v - SHIELD_V, 21.0, SHIELD_HALF, 0.6))


def _cavity_weight(grid: Grid) -> Raster:
    """Return 1 in the row of eight square pin cavities and 0 elsewhere."""
    column = np.clip(np.rint(grid.u / CAVITY_PITCH - 0.5), -4, 3) + 0.5
    distance = box_distance(grid.u - column * CAVITY_PITCH, grid.v - 11.5, CAVITY_HALF, CAVITY_HALF, 0.3)
    return 1 - smoothstep(-0.25, 0.25, distance)


def _ribs(grid: Grid) -> Raster:
    """Return the height of four grip ribs on the left, mm."""
    ribbed = box_distance(grid.u + 17.5, grid.v + 1.0, 5.0, 5.6, 0.5) < 0
    return np.where(ribbed, 0.35 * (1 - np.cos(grid.u * np.float32(2 * np.pi / 2.5))), 0).astype(np.float32)


def _materials(rng: np.random.Generator, grid: Grid, shield: Raster) -> ColourRaster:
    speckle = 1 + 0.05 * smooth_noise(rng, grid, 0.5) + 0.02 * smooth_noise(rng, grid, 10.0)
    plastic = np.array([0.075, 0.080, 0.095], dtype=np.float32) * np.float32(1 + rng.normal(0, 0.04))
    brushed = 0.50 + 0.035 * smooth_noise(rng, grid, 25.0, 0.3) + rng.normal(0, 0.01)
    albedo = speckle[..., None] * plastic
    albedo = albedo + shield[..., None] * (brushed[..., None] * np.float32(0.98) - albedo)
    return _stick_label(rng, grid, albedo)


def _stick_label(rng: np.random.Generator, grid: Grid, albedo: ColourRaster) -> ColourRaster:
    u = grid.u - np.float32(LABEL_U + rng.normal(0, 0.25))
    v = grid.v - np.float32(LABEL_V + rng.normal(0, 0.2))
    paper = 1 - smoothstep(-0.12, 0.12, box_distance(u, v, LABEL_HALF_U, LABEL_HALF_V, 0.8))
    albedo = paint(albedo, (0.78, 0.76, 0.70), paper)
    ink = _text_line(u, v) | _bars(rng, u, v)
    return paint(albedo, (0.04, 0.04, 0.05), 0.9 * ink.astype(np.float32))


def _text_line(u: Raster, v: Raster) -> Flags:
    """Return the cells of the type designation, blocks of letter size, the same on every label."""
    letters = (np.abs(u) < 13) & (np.mod(u, 2.0) < 1.35) & (np.abs(v + 3.0) < 1.1)
    return letters & ~((np.mod(u, 4.0) < 0.8) & (np.abs(v + 3.0) < 0.35))


def _bars(rng: np.random.Generator, u: Raster, v: Raster) -> Flags:
    """Return the cells of a bar code of 24 modules; the last six encode the serial number."""
    code = np.random.default_rng(7).integers(0, 2, 24)
    code[18:] = rng.integers(0, 2, 6)
    module = np.clip(np.floor((u + 12) / 1.0), 0, 23).astype(np.intp)
    return (code[module] == 1) & (np.abs(u) < 12) & (np.abs(v - 1.8) < 2.4)
