"""The map of a branch: cosine distances between the features of teacher and student at each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

STRIDES = (4, 8, 16)
"""Strides of the features of levels 1-3."""
_LEAST_NORM = 1e-8  # as in torch's cosine_similarity


class DistanceMap(nn.Module):
    """Sum over the levels of 1 - cos over the channels, each level brought to full resolution (bilinear).

    Upsampling is linear and separable, so it is U·d·Uᵀ: no resize operator whose meaning differs between engines.

    Args:
        size: Side of the map in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        for level, stride in enumerate(STRIDES):
            self.register_buffer(f"upsampling{level}", upsampling(size // stride, size), persistent=False)

    def forward(self, features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return the map float32 `[B, size, size]`, 0 to 6.

        Args:
            features: Features that the student reconstructs, `[B, C, size/stride, size/stride]` of each level.
            target: Features of the teacher, of the same shapes.
        """
        maps = []
        for level, pair in enumerate(zip(features, target, strict=True)):
            upsample = self.get_buffer(f"upsampling{level}")
            maps.append(upsample @ cosine_distance(*pair) @ upsample.T)
        return torch.stack(maps).sum(0)


def cosine_distance(features: Tensor, target: Tensor) -> Tensor:
    """Return 1 - cos over the channels, float32 `[B, h, w]`, of features `[B, C, h, w]`.

    Sums are float32 also for fp16 features: a thousand squares overflow fp16 from a root mean square of 8 on.
    """
    a, b = features.float(), target.float()
    return 1 - (a * b).sum(1) / (_norm(a) * _norm(b))


def _norm(features: Tensor) -> Tensor:
    return (features * features).sum(1).sqrt().clamp(min=_LEAST_NORM)


def upsampling(grid: int, size: int) -> Tensor:
    """Return one axis of bilinear upsampling with `align_corners`, float32 `[size, grid]`."""
    place = np.arange(size) * (grid - 1) / (size - 1)
    low = np.minimum(place.astype(int), grid - 2)
    matrix = np.zeros((size, grid))
    matrix[np.arange(size), low] = 1 - (place - low)
    matrix[np.arange(size), low + 1] = place - low
    return torch.from_numpy(matrix.astype(np.float32))
