"""Defects of three sorts: visible in colour only, in shape only, or in both.

Every defect is 3-8 mm wide (scratches up to 12 mm long). A change of shape is 1.4-2.9 mm deep or high: clearly above
sensor noise and small compared with the part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cmdiad_train.synthesis.surface import (
    SAFE_HEIGHT,
    Colour,
    Flags,
    Grid,
    Raster,
    Surface,
    paint,
    smooth_noise,
    smoothstep,
)

Sort = Literal["colour", "shape", "both"]

HEIGHT_TOLERANCE = 0.1
"""Change of height in millimetres above which a cell belongs to the mask."""
ALBEDO_TOLERANCE = 0.04
"""Change of linear reflectance in any channel above which a cell belongs to the mask."""

_STAINS: tuple[Colour, ...] = (
    (0.020, 0.014, 0.010),  # oil
    (0.330, 0.085, 0.020),  # rust
    (0.750, 0.730, 0.680),  # chalk
)
_RESIDUES: tuple[Colour, ...] = (
    (0.520, 0.110, 0.030),  # red sealing compound
    (0.035, 0.030, 0.028),  # burnt crumbs
    (0.660, 0.620, 0.500),  # dried paste
)


@dataclass(frozen=True)
class DefectType:
    """A type of defect.

    Attributes:
        name: Name of the defect's folder in the test split.
        sort: Modality in which the defect is visible.
        radius: Smallest and largest half width, mm.
        inflict: Function that adds the defect at a site: (rng, surface, (u, v) mm, radius mm) -> surface.
    """

    name: str
    sort: Sort
    radius: tuple[float, float]
    inflict: Callable[[np.random.Generator, Surface, Site, float], Surface]


Site = tuple[float, float]


def spoil(rng: np.random.Generator, surface: Surface, defect: DefectType) -> Surface:
    """Return the surface with one defect of a type at a random place well inside the part."""
    radius = rng.uniform(*defect.radius)
    return defect.inflict(rng, surface, _find_site(rng, surface, radius), radius)


def changed_cells(sound: Surface, spoilt: Surface) -> Flags:
    """Return the cells of the part whose height or albedo differs by more than the tolerances, bool `[n, n]`."""
    moved = np.abs(spoilt.height - sound.height) > HEIGHT_TOLERANCE
    if spoilt.albedo is sound.albedo:
        return moved & sound.part
    recoloured = (np.abs(spoilt.albedo - sound.albedo) > ALBEDO_TOLERANCE).any(axis=-1)
    return (moved | recoloured) & sound.part


def _find_site(rng: np.random.Generator, surface: Surface, radius: float, candidates: int = 400) -> Site:
    """Draw a place where the part is complete and high enough to lose 2.5 mm."""
    centres = rng.uniform(-24, 24, (candidates, 2))
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    probes = np.concatenate([0.0 * ring[:1], 0.5 * radius * ring, 1.15 * radius * ring])
    cells = surface.grid.index(centres[:, None] + probes)  # [candidates, probes, (u, v)]
    sound = surface.height[cells[..., 1], cells[..., 0]] > SAFE_HEIGHT + 2.0
    best = int(np.argmax(sound.mean(axis=1)))  # The first candidate with the most complete surroundings.
    return float(centres[best, 0]), float(centres[best, 1])


@dataclass(frozen=True)
class _Patch:
    """The cells around a site; `outline` is 1 on an irregular outline and below 1 inside."""

    area: tuple[slice, slice]
    outline: Raster


def _patch(
    rng: np.random.Generator,
    grid: Grid,
    site: Site,
    radius: float,
    *,
    wobble: float = 0.08,
    slim: float = 1.0,
) -> _Patch:
    """Draw an irregular round patch.

    Args:
        rng: Random generator.
        grid: Grid of the surface.
        site: Centre (u, v), mm.
        radius: Half width, mm.
        wobble: Strength of the irregularity of the outline.
        slim: Divisor of the width across a random direction.
    """
    area = grid.window(*site, 1.5 * radius)
    u, v, turn = grid.u[area] - np.float32(site[0]), grid.v[area] - np.float32(site[1]), rng.uniform(0, np.pi)
    along, across = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
    angle = np.arctan2(across, along)
    reach = np.ones_like(u)
    for waves in (2, 3, 5):
        reach += 2 / waves * wobble * rng.uniform(-1, 1) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return _Patch(area, (np.hypot(along, across * slim) / (radius * reach)).astype(np.float32))


def _lifted(surface: Surface, patch: _Patch, change: Raster) -> Surface:
    height = surface.height.copy()
    height[patch.area] += np.where(surface.part[patch.area], change, 0)
    return replace(surface, height=height)


def _painted(surface: Surface, patch: _Patch, colour: Colour, weight: Raster) -> Surface:
    albedo = surface.albedo.copy()
    on_part = np.where(surface.part[patch.area], weight, 0)
    albedo[patch.area] = paint(albedo[patch.area], colour, on_part)
    return replace(surface, albedo=albedo)


def _contrasting(rng: np.random.Generator, surface: Surface, patch: _Patch, colours: tuple[Colour, ...]) -> Colour:
    """Draw a colour that contrasts with the patch. Square roots are compared, close to human perception."""
    inside = surface.albedo[patch.area][patch.outline < 1]
    ground = np.sqrt(inside.mean(axis=0))
    contrast = np.abs(np.sqrt(np.asarray(colours)) - ground).max(axis=1)
    visible = np.flatnonzero(contrast > min(0.3, contrast.max() - 1e-6))
    return colours[int(rng.choice(visible))]


def _cap(outline: Raster) -> Raster:
    """Return a rounded profile: 1 in the middle, 0 with horizontal tangent on the outline."""
    return np.square(1 - np.clip(outline, 0, 1) ** 2)


def _stain(rng: np.random.Generator, surface: Surface, site: Site, radius: float) -> Surface:
    patch = _patch(rng, surface.grid, site, radius, wobble=0.15, slim=rng.uniform(1.0, 1.3))
    colour = _contrasting(rng, surface, patch, _STAINS)
    cover = rng.uniform(0.75, 0.92) * (1 - smoothstep(0.75, 1.05, patch.outline))
    return _painted(surface, patch, colour, cover)


def _dent(rng: np.random.Generator, surface: Surface, site: Site, radius: float) -> Surface:
    patch = _patch(rng, surface.grid, site, radius, slim=rng.uniform(1.0, 1.2))
    return _lifted(surface, patch, -rng.uniform(1.9, 2.5) * _cap(patch.outline))


def _bump(rng: np.random.Generator, surface: Surface, site: Site, radius: float) -> Surface:
    patch = _patch(rng, surface.grid, site, radius, slim=rng.uniform(1.0, 1.2))
    return _lifted(surface, patch, rng.uniform(1.9, 2.5) * _cap(patch.outline))


def _hole(rng: np.random.Generator, surface: Surface, site: Site, radius: float) -> Surface:
    patch = _patch(rng, surface.grid, site, radius, wobble=0.05)
    bored = 1 - smoothstep(0.75, 1.0, patch.outline)
    spoilt = _lifted(surface, patch, -rng.uniform(1.9, 2.5) * bored)
    return _painted(spoilt, patch, (0.010, 0.010, 0.010), 0.85 * bored)


def _scratch(rng: np.random.Generator, surface: Surface, site: Site, radius: float) -> Surface:
    patch = _patch(rng, surface.grid, site, radius, wobble=0.05, slim=radius / rng.uniform(1.1, 1.5))
    groove = 1 - smoothstep(0.3, 1.0, patch.outline)
    bare = _contrasting(rng, surface, patch, ((0.02, 0.02, 0.02), (0.75, 0.74, 0.72)))
    spoilt = _lifted(surface, patch, -rng.uniform(1.4, 2.0) * groove)
    return _painted(spoilt, patch, bare, 0.7 * groove)


def _contamination(rng: np.random.Generator, surface: Surface, site: Site, radius: float) -> Surface:
    patch = _patch(rng, surface.grid, site, radius, wobble=0.2, slim=rng.uniform(1.0, 1.4))
    grain = smooth_noise(rng, surface.grid, 0.9)[patch.area]
    cover = 1 - smoothstep(0.85, 1.0, patch.outline)
    pile = rng.uniform(1.5, 2.1) * np.sqrt(_cap(patch.outline)) * np.clip(1 + 0.18 * grain, 0.5, 1.4)
    colour = _contrasting(rng, surface, patch, _RESIDUES)
    return _painted(_lifted(surface, patch, pile), patch, colour, np.clip(cover * (0.9 + 0.06 * grain), 0, 1))


DEFECT_TYPES: Mapping[str, DefectType] = {
    defect.name: defect
    for defect in (
        DefectType("stain", "colour", (2.2, 4.0), _stain),
        DefectType("dent", "shape", (3.0, 4.0), _dent),
        DefectType("bump", "shape", (3.0, 4.0), _bump),
        DefectType("hole", "both", (2.0, 3.0), _hole),
        DefectType("scratch", "both", (4.5, 6.0), _scratch),
        DefectType("contamination", "both", (2.5, 3.8), _contamination),
    )
}
"""All defect types by the name of their folder."""
