"""Gradient noise (Perlin 1985), from which anomaly masks and depth are simulated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmdiad_train.detectors.dsr3d.simulation.rotation import rotated

_EXPONENTS = 6
"""The lattice has 2^0 to 2^5 cells per side."""
_MOST_DEGREES = 90


def gradient_noise(angles: Tensor, size: int) -> Tensor:
    """Return the noise of a lattice, float64 `[size, size]`, about -1 to 1.

    The gradient at a node is (cos, sin) of its angle on (row, column). The ramps of the four nodes around a pixel are
    blended with 6t⁵ - 15t⁴ + 10t³.

    Args:
        angles: Angle at each node in radians, float64 `[A + 1, B + 1]` for A x B cells.
        size: Side of the result in pixels.
    """
    (rows, down), (columns, right) = (_cells(size, nodes - 1) for nodes in angles.shape)

    def ramp(below: int, beside: int) -> Tensor:
        angle = angles[rows + below][:, columns + beside]
        return angle.cos() * (down - below)[:, None] + angle.sin() * (right - beside)[None]

    fade_down, fade_right = _fade(down)[:, None], _fade(right)[None]
    left = torch.lerp(ramp(0, 0), ramp(1, 0), fade_down)
    return math.sqrt(2) * torch.lerp(left, torch.lerp(ramp(0, 1), ramp(1, 1), fade_down), fade_right)


def draw_noise(size: int, generator: torch.Generator) -> Tensor:
    """Return random noise on a random lattice, rotated by up to 90 degrees, float32 `[1, size, size]`."""
    nodes = [1 + 2 ** int(torch.randint(_EXPONENTS, (), generator=generator)) for _ in range(2)]
    angles = 2 * math.pi * torch.rand(nodes, generator=generator, dtype=torch.float64)
    degrees = _MOST_DEGREES * (2 * torch.rand(1, generator=generator) - 1)
    return rotated(gradient_noise(angles, size).float()[None, None], degrees)[0]


def simulated_depth(noise: Tensor, share: float, level: float) -> Tensor:
    """Return a depth image from 0 to 1, of the shape of the noise: noise of a contrast about a level.

    Args:
        noise: Noise of any range.
        share: Share of the noise, 0 to 1.
        level: Depth of the rest, 0 to 1.
    """
    spread = (noise - noise.min()) / (noise.max() - noise.min())
    return (share * spread + level * (1 - share)).clamp(0, 1)


def _cells(size: int, cells: int) -> tuple[Tensor, Tensor]:
    """Return the cell of each pixel along one axis, int64 `[size]`, and its position in the cell, float64 `[size]`."""
    places = torch.arange(size, dtype=torch.float64) * cells / size
    return places.long(), places - places.floor()


def _fade(fraction: Tensor) -> Tensor:
    return fraction**3 * (fraction * (6 * fraction - 15) + 10)
