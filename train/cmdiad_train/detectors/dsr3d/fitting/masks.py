"""Simulated places of anomalies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.detectors.dsr3d.simulation.noise import draw_noise

_LOWEST, _HIGHEST = 0.4, 0.8
"""Range of the threshold above which noise is an anomaly."""
_ANOMALOUS = 0.5
"""Probability that a sample has anomalies."""


def anomaly_masks(foreground: Tensor, generator: torch.Generator) -> Tensor:
    """Return masks of the shape of the foreground `[B, 1, size, size]`: 1 where anomalies are simulated, else 0.

    Args:
        foreground: 1 where anomalies may be, else 0.
        generator: CPU generator of all random draws.
    """
    masks = []
    for _ in foreground:
        threshold = _LOWEST + (_HIGHEST - _LOWEST) * float(torch.rand((), generator=generator))
        anomalous = float(torch.rand((), generator=generator)) < _ANOMALOUS
        noise = draw_noise(foreground.shape[-1], generator) if anomalous else torch.zeros(foreground.shape[1:])
        masks.append((noise.abs() > threshold).to(foreground.dtype))
    return foreground * torch.stack(masks).to(foreground.device)


def coarsened(mask: Tensor, pixels: int) -> Tensor:
    """Return a mask `[B, 1, H, W]` in squares of some pixels, each of which is 1 if one of its pixels is."""
    pooled = F.max_pool2d(mask, pixels)
    return pooled.repeat_interleave(pixels, 2).repeat_interleave(pixels, 3)
