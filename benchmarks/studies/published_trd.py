"""Run Tuned Reverse Distillation with both sensors as published, in plain torch: a reference for speed and memory.

Source: Liu et al., "Tuned Reverse Distillation" (arXiv 2412.08949), in the form that the golden arrays of this project
were computed with. Nothing is optimised: fp32, the teacher runs once for each sensor, BatchNorm is a separate step,
level weights are computed in each run, the cosine is torch's, and SciPy blurs the map. Weights are random unless a
checkpoint is loaded: neither time nor memory depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable

LEVELS = 3
BLUR = 4.0
"""Deviation of the Gaussian that smooths the map, in pixels."""
SizeName = Literal["resnet18", "wide_resnet50_2"]


@dataclass(frozen=True)
class Size:
    """Size of teacher and students.

    Attributes:
        teacher: Name of the timm model.
        channels: Channels of the teacher's levels 1 to 3.
        planes: Channels inside a unit of each level, before `width` multiplies them.
        depths: Units of the decoder at levels 3, 2 and 1.
        bottleneck_units: Units of the bottleneck.
        width: Factor of the channels inside a bottleneck unit.
        basic: True for units of two 3x3 convolutions.
    """

    teacher: SizeName
    channels: tuple[int, int, int]
    planes: tuple[int, int, int]
    depths: tuple[int, int, int]
    bottleneck_units: int
    width: int
    basic: bool


SIZES: dict[SizeName, Size] = {
    "resnet18": Size("resnet18", (64, 128, 256), (64, 128, 256), (2, 2, 2), 2, 1, basic=True),
    "wide_resnet50_2": Size("wide_resnet50_2", (256, 512, 1024), (64, 128, 256), (3, 4, 6), 3, 2, basic=False),
}


def normalised(convolution: nn.Module, channels: int) -> nn.Sequential:
    """Return a convolution, its BatchNorm and a ReLU."""
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size at stride 1, with BatchNorm and ReLU."""
    return normalised(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), outputs)


class Filter(nn.Sequential):
    """Network that predicts a level from that of the other modality, through a bottleneck with few positions.

    Args:
        channels: Channels of the level.
        steps: Number of times that the grid is halved.
    """

    def __init__(self, channels: int, steps: int) -> None:
        widths = [channels << step for step in range(steps + 1)]
        down = [normalised(nn.Conv2d(a, b, 2, 2, bias=False), b) for a, b in pairwise(widths)]
        back = widths[::-1]
        up = [normalised(nn.ConvTranspose2d(a, b, 2, 2, bias=False), b) for a, b in pairwise(back)]
        super().__init__(*down, *up)


class Amplifier(nn.Sequential):
    """Network that predicts a level from that of the other modality, at full resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            convolution(channels, channels, 3),
            convolution(channels, 2 * channels, 1),
            convolution(2 * channels, channels, 1),
        )


class Unit(nn.Module):
    """A residual unit that keeps the grid, halves it (`down`) or doubles it (`up`).

    Args:
        inputs: Channels of the input.
        planes: Channels inside the unit.
        size: Size of the network.
        change: Change of the grid.
    """

    def __init__(self, inputs: int, planes: int, size: Size, change: Literal["none", "down", "up"]) -> None:
        super().__init__()
        outputs = planes if size.basic else 4 * planes
        inner = planes * size.width
        spatial_inputs = inputs if size.basic else inner
        spatial: nn.Module = nn.Conv2d(spatial_inputs, inner, 3, 2 if change == "down" else 1, 1, bias=False)
        shortcut: nn.Module = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
        if change == "up":
            spatial = nn.ConvTranspose2d(spatial_inputs, inner, 2, 2, bias=False)
            shortcut = nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)
        kernel = 3 if size.basic else 1
        last = nn.Conv2d(inner, outputs, kernel, padding=kernel // 2, bias=False)
        before = () if size.basic else (convolution(inputs, inner, 1),)
        self.shortcut = nn.Identity() if change == "none" else nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.body = nn.Sequential(*before, normalised(spatial, inner), last, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the result `[B, outputs, h, w]` of `[B, inputs, h, w]`."""
        return F.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """Network that combines all levels of a modality, measured and filtered, into one embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        first, second, third = size.channels
        self.levels = nn.ModuleList(
            [
                nn.Sequential(convolution(2 * first, 4 * first, 3, 2), convolution(4 * first, third, 3, 2)),
                convolution(2 * second, third, 3, 2),
                convolution(2 * third, third, 3),
            ]
        )
        planes = 2 * size.planes[-1]
        outputs = planes if size.basic else 4 * planes
        units = [Unit(3 * third, planes, size, "down")]
        units += [Unit(outputs, planes, size, "none") for _ in range(size.bottleneck_units - 1)]
        self.units = nn.Sequential(*units)

    def forward(self, own: list[Tensor], filtered: list[Tensor]) -> Tensor:
        """Return `[B, outputs, size / 32, size / 32]`."""
        pairs = zip(self.levels, own, filtered, strict=True)
        return self.units(torch.cat([level(torch.cat(pair, 1)) for level, *pair in pairs], 1))


class Student(nn.Module):
    """Networks that are trained for one modality: Filter, Amplifier, bottleneck and decoder."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        channels = size.channels
        self.filters = nn.ModuleList([Filter(width, LEVELS - level) for level, width in enumerate(channels)])
        self.amplifiers = nn.ModuleList([Amplifier(width) for width in channels])
        self.bottleneck = Bottleneck(size)
        self.stages = nn.ModuleList()
        inputs = 2 * channels[-1]
        for planes, outputs, depth in zip(size.planes[::-1], channels[::-1], size.depths, strict=True):
            units = [Unit(inputs, planes, size, "up")]
            units += [Unit(outputs, planes, size, "none") for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*units))
            inputs = outputs
        self.level_scalars = nn.Parameter(torch.ones(LEVELS, 2))

    def forward(self, own: list[Tensor], other: list[Tensor]) -> list[Tensor]:
        """Return the fused features of levels 1 to 3, shapes as in `own`."""
        filtered = [network(features) for network, features in zip(self.filters, other, strict=True)]
        amplified = [network(features) for network, features in zip(self.amplifiers, other, strict=True)]
        fused = self.bottleneck(own, filtered)
        results = []
        for stage, weights, added in zip(self.stages, self.level_scalars.flip(0), amplified[::-1], strict=True):
            raw_share, added_share = torch.softmax(weights, 0)
            fused = raw_share * stage(fused) + added_share * added
            results.append(fused)
        return results[::-1]


class PublishedTrd(nn.Module):
    """Inference with both sensors, as published.

    Args:
        size: Size of teacher and students.
        seed: Seed of the random weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: Size, seed: int = 0) -> None:
        super().__init__()
        make_torchvision_importable()
        import timm

        torch.manual_seed(seed)
        self.teacher = timm.create_model(size.teacher, features_only=True, out_indices=(1, 2, 3))
        self.students = nn.ModuleList([Student(size), Student(size)])
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("deviation", torch.ones(2))
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def predict(self, rgb: Tensor, geometry: Tensor) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the score and the smoothed map of normalised images float32 `[1, 3, size, size]`."""
        features = [self.teacher(image) for image in (rgb, geometry)]
        total = torch.zeros(rgb.shape[-2:])
        for branch, (own, other) in enumerate((features, features[::-1])):
            branch_map = anomaly_map(self.students[branch](own, other), own, rgb.shape[-1])
            total += (branch_map - self.mean[branch]) / self.deviation[branch]
        smoothed = gaussian_filter(total.double().numpy(), BLUR, mode="reflect")
        return float(smoothed.max()), smoothed


def anomaly_map(fused: list[Tensor], features: list[Tensor], size: int) -> Tensor:
    """Return the sum over the levels of one minus the cosine of student and teacher, `[size, size]`."""
    levels = [
        F.interpolate(1 - F.cosine_similarity(a, b)[:, None], size=size, mode="bilinear", align_corners=True)
        for a, b in zip(fused, features, strict=True)
    ]
    return torch.stack(levels).sum(0)[0, 0]
