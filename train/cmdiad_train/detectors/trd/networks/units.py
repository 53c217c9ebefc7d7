"""Residual units that keep, halve or double the resolution, with the parameter names of torchvision's ResNet."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_train.detectors.trd.networks.shapes import TeacherShape

Resize = Literal["keep", "halve", "double"]


def convolution(width: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that pads so that only the stride changes the resolution."""
    return nn.Conv2d(width, out, kernel, stride, padding=kernel // 2, bias=False)


def doubling(width: int, out: int) -> nn.ConvTranspose2d:
    """Return the 2×2 deconvolution with stride 2, which doubles the resolution."""
    return nn.ConvTranspose2d(width, out, 2, stride=2, bias=False)


def initialise(module: nn.Module) -> None:
    """Initialise a network as published: Kaiming-normal convolutions. Deconvolutions keep the default of torch."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


class Unit(nn.Module):
    """Base class of the residual units: a shortcut, which resizes if the unit does.

    Args:
        width: Input channels.
        out: Output channels.
        resize: "keep" (then `out` equals `width`), "halve" or "double" the resolution.
    """

    def __init__(self, width: int, out: int, resize: Resize) -> None:
        super().__init__()
        self._resize = resize
        if resize == "halve":
            self.downsample = nn.Sequential(convolution(width, out, 1, stride=2), nn.BatchNorm2d(out))
        elif resize == "double":
            self.upsample = nn.Sequential(doubling(width, out), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, width, h, w]` to `[B, out, h', w']`."""
        return F.relu(self.residual(x) + self._shortcut(x))

    def residual(self, x: Tensor) -> Tensor:
        """Return what the unit adds to its shortcut."""
        raise NotImplementedError

    def _shortcut(self, x: Tensor) -> Tensor:
        if self._resize == "keep":
            return x
        return self.downsample(x) if self._resize == "halve" else self.upsample(x)


class BasicUnit(Unit):
    """Two 3×3 convolutions; the first one resizes."""

    def __init__(self, width: int, out: int, resize: Resize) -> None:
        super().__init__(width, out, resize)
        self.conv1 = _spatial(width, out, resize)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = convolution(out, out, 3)
        self.bn2 = nn.BatchNorm2d(out)

    def residual(self, x: Tensor) -> Tensor:
        """Return what the unit adds to its shortcut."""
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class BottleneckUnit(Unit):
    """A 3×3 convolution, which resizes, of fewer channels between two 1×1 convolutions.

    Args:
        width: Input channels.
        out: Output channels.
        resize: See `Unit`.
        inner: Channels of the 3×3 convolution.
    """

    def __init__(self, width: int, out: int, resize: Resize, inner: int) -> None:
        super().__init__(width, out, resize)
        self.conv1 = convolution(width, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _spatial(inner, inner, resize)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = convolution(inner, out, 1)
        self.bn3 = nn.BatchNorm2d(out)

    def residual(self, x: Tensor) -> Tensor:
        """Return what the unit adds to its shortcut."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


def stage(width: int, out: int, depth: int, resize: Resize, shape: TeacherShape) -> nn.Sequential:
    """Return residual units in a row; the first one resizes.

    Args:
        width: Input channels.
        out: Output channels.
        depth: Number of units.
        resize: Change of resolution in the first unit.
        shape: Shape of the teacher, which decides about the kind of unit.
    """
    steps: list[Resize] = [resize, *(["keep"] * (depth - 1))]  # type: ignore[list-item]
    units = [_unit(width if i == 0 else out, out, step, shape) for i, step in enumerate(steps)]
    return nn.Sequential(*units)


def _unit(width: int, out: int, resize: Resize, shape: TeacherShape) -> Unit:
    if shape.unit == "basic":
        return BasicUnit(width, out, resize)
    return BottleneckUnit(width, out, resize, shape.inner_width(out))


def _spatial(width: int, out: int, resize: Resize) -> nn.Module:
    return doubling(width, out) if resize == "double" else convolution(width, out, 3, 2 if resize == "halve" else 1)
