"""Units that several networks of 3DSR consist of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.Module):
    """Features minus the mean of each channel of a sample, divided by its deviation; always computed in float32."""

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape and type, `[B, C, h, w]`."""
        return F.instance_norm(features.float()).to(features.dtype)


class ResidualStack(nn.Module):
    """Two residual units of ReLU, 3 x 3 convolution, ReLU and 1 x 1 convolution, then ReLU.

    Args:
        width: Channels.
        groups: Groups of the convolutions.
        rectified: True if a unit adds to its rectified input, as in the published object decoder, whose ReLU
            overwrites the input.
    """

    def __init__(self, width: int, *, groups: int = 1, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        self.units = nn.ModuleList(_residual_unit(width, groups) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, `[B, width, h, w]`."""
        for unit in self.units:
            features = (F.relu(features) if self.rectified else features) + unit(features)
        return F.relu(features)


def _residual_unit(width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(width, width // 2, 3, padding=1, bias=False, groups=groups),
        nn.ReLU(),
        nn.Conv2d(width // 2, width, 1, bias=False, groups=groups),
    )


def two_convolutions(entering: int, between: int, leaving: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each followed by instance norm and ReLU."""
    return nn.Sequential(*_convolution(entering, between), *_convolution(between, leaving))


def enlarging(entering: int, leaving: int) -> nn.Sequential:
    """Return a bilinear enlargement to twice the side, corner to corner, and a 3 x 3 convolution with norm and ReLU."""
    upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return nn.Sequential(upsample, *_convolution(entering, leaving))


def transposed(entering: int, leaving: int, *, groups: int = 1) -> nn.ConvTranspose2d:
    """Return a transposed 4 x 4 convolution that doubles the side."""
    return nn.ConvTranspose2d(entering, leaving, 4, stride=2, padding=1, groups=groups)


def _convolution(entering: int, leaving: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(entering, leaving, 3, padding=1), InstanceNorm(), nn.ReLU()


def published_start(module: nn.Module) -> None:
    """Draw the weights of all convolutions from a normal distribution with deviation 0.02, as published."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, 0.0, 0.02)
