"""A network from the patch features of one modality to those of the other, row by row (method §8.1).

The memory bank family hallucinates features with it; crossmodal feature mapping compares its output with features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _MlpModule(nn.Module):
    def __init__(self, width: int, hidden: int, out: int, output: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, out)
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))
        return F.gelu(x) if self.output == "gelu" else x


class FeatureToFeature(nn.Module):
    """F2F: LayerNorm and a three-layer MLP, from one modality's patch features to the other's (method §8.1).

    Args:
        width: Channels of the main modality's features.
        out: Channels of the other modality's features.
        expansion: Hidden width as a multiple of `width`.
        output: Last activation: "gelu" as published, or "linear", which can also reach values below -0.17.

    Attributes:
        target_mean: Offset float `[out]`, is added to the output of the network; 0 as published.
        target_scale: Factor float `[]` of the output before the offset is added; 1 as published.
    """

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, width: int, out: int, *, expansion: float = 2.5, output: str = "linear") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = _MlpModule(width, int(expansion * width), out, output)
        self.register_buffer("target_mean", torch.zeros(out))
        self.register_buffer("target_scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return hallucinated features `[..., out]` of main features `[..., width]`, row by row."""
        hallucinated = self.mlp(self.norm(features))
        return hallucinated.to(self.target_mean.dtype) * self.target_scale + self.target_mean
