"""The student: a plain convolutional network that is trained to output the teacher's z."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_train.detectors.ast.networks.position import CODE_CHANNELS, position_code


class Unit(nn.Module):
    """Residual unit of two convolutions; both are followed by BatchNorm and LeakyReLU, the sum by nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, `[B, width, h, w]`."""
        hidden = F.leaky_relu(self.bn1(self.conv1(features)))
        return features + F.leaky_relu(self.bn2(self.conv2(hidden)))


class Student(nn.Module):
    """Position code and features to z: a convolution, residual units, a convolution.

    Args:
        channels: Channels of the features and of z.
        grid: Side of the grid of cells.
        width: Channels in between; 1024 as published.
        units: Number of residual units.
    """

    code: Tensor

    def __init__(self, channels: int, grid: int, *, width: int, units: int) -> None:
        super().__init__()
        self.register_buffer("code", position_code(grid), persistent=False)
        self.enter = nn.Conv2d(CODE_CHANNELS + channels, width, 3, padding=1)
        self.units = nn.Sequential(*(Unit(width) for _ in range(units)))
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the z that the student expects, `[B, C, grid, grid]`, of features of the same shape."""
        code = self.code.expand(len(features), -1, -1, -1).to(features.dtype)
        hidden = F.leaky_relu(self.enter(torch.cat([code, features], 1)))
        z: Tensor = self.leave(self.units(hidden))
        return z
