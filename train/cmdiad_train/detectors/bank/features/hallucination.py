"""The distillation networks that hallucinate the missing modality's features or input (method §8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_train.detectors.feature_mapping import FeatureToFeature


class FeatureToInput(nn.Module):
    """F2I: a small convolutional decoder from features to the other modality's network input (method §8.2).

    The published module also holds a LayerNorm that is never called and left out here.

    Args:
        width: Channels of the main modality's features.
        grid: Side of the grid of these features.
        size: Side of the generated input in pixels.

    Attributes:
        target_mean: Offset float `[3]`, is added to the output of the network; 0 as published.
        target_scale: Factor float `[]` of the output before the offset is added; 1 as published.
    """

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, width: int = 768, grid: int = 56, size: int = 224) -> None:
        super().__init__()
        self.grid, self.size = grid, size
        self.conv1 = nn.Conv2d(width, 384, 3, padding=1)
        self.conv2 = nn.Conv2d(384, 96, 3, padding=1)
        self.conv3 = nn.Conv2d(96, 32, 3, padding=1)
        self.conv4 = nn.Conv2d(32, 3, 3, padding=1)
        self.register_buffer("target_mean", torch.zeros(3))
        self.register_buffer("target_scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return the input `[B, 3, size, size]` of the other modality from features `[B, grid², width]`."""
        x = features.transpose(1, 2).reshape(len(features), -1, self.grid, self.grid)
        x = self.conv1(x)
        x = F.interpolate(x, size=self.size, mode="bicubic", align_corners=False)
        x = self.conv4(F.relu(self.conv3(F.relu(self.conv2(x)))))
        return x.to(self.target_mean.dtype) * self.target_scale + self.target_mean[:, None, None]


class Bottleneck(nn.Module):
    """A residual bottleneck of the I2F trunk."""

    def __init__(self, width: int, middle: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        if width != out:
            self.downsample = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))
        self.project = width != out

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, width, h, w]` to `[B, out, h, w]`."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if self.project else x))


class InputToFeature(nn.Module):
    """I2F: a residual CNN from the main modality's network input to the other's features (method §8.3).

    The published "HRNet" runs only this trunk; its fourth group of blocks is never called and left out. Its last
    convolution takes the trunk's 512 channels: with the documented 128 or 192 the published code stops (method §8.3).

    Args:
        out: Channels of the other modality's features.

    Attributes:
        target_mean: Offset float `[out]`, is added to the output of the network; 0 as published.
        target_scale: Factor float `[]` of the output before the offset is added; 1 as published.
    """

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, out: int = 768) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(128)
        self.layer1 = nn.Sequential(*[Bottleneck(128 if i == 0 else 512, 128, 512) for i in range(4)])
        self.layer2 = nn.Sequential(*[Bottleneck(512, 128, 512) for _ in range(4)])
        self.layer3 = nn.Sequential(*[Bottleneck(512, 128, 512) for _ in range(4)])
        self.final_layer = nn.Conv2d(512, out, 1)
        self.register_buffer("target_mean", torch.zeros(out))
        self.register_buffer("target_scale", torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        """Return features `[B, (h/4)·(w/4), out]` of an input `[B, 3, h, w]`."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.final_layer(self.layer3(self.layer2(self.layer1(x)))).flatten(2).transpose(1, 2)
        return x.to(self.target_mean.dtype) * self.target_scale + self.target_mean


Network = FeatureToFeature | FeatureToInput | InputToFeature
