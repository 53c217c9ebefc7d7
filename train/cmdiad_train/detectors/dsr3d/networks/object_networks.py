"""The networks of one object: codes back to those of good parts, the object's picture, and the comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmdiad_train.detectors.dsr3d.networks.units import ResidualStack, enlarging, transposed, two_convolutions


class ObjectNetworks(nn.Module):
    """The four networks that are trained for each object.

    Args:
        channels: Channels of the picture.
        width: Channels of a code.

    Attributes:
        restrict_coarse: Disturbed coarse codes to features near the codes of good parts.
        restrict_fine: The same for fine codes.
        draw: Enlarged coarse codes and fine codes to the object's picture, `[B, 2·width, s/4, s/4]` to `[B, C, s, s]`.
        compare: Object's picture and general picture to the logits of "normal" and "anomalous".
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.restrict_coarse, self.restrict_fine = restriction(width), restriction(width)
        self.draw = object_decoder(channels, width)
        self.compare = Comparison(2 * channels, width // 8)

    def logits(self, drawn: Tensor, general: Tensor) -> Tensor:
        """Return the logits of "normal" and "anomalous" float32 `[B, 2, s, s]` of two pictures `[B, C, s, s]`."""
        precision = self.compare.leave.weight.dtype
        logits: Tensor = self.compare(torch.cat([drawn.to(precision), general.to(precision)], 1))
        return logits.float()


def restriction(width: int) -> nn.Sequential:
    """Return the network without skip connections that brings codes `[B, width, h, w]` back to those of good parts."""
    return nn.Sequential(
        two_convolutions(width, width // 2, width // 2),
        nn.MaxPool2d(2),
        two_convolutions(width // 2, width, width),
        nn.MaxPool2d(2),
        two_convolutions(width, 2 * width, 2 * width),
        enlarging(2 * width, width),
        two_convolutions(width, width, width),
        enlarging(width, width // 2),
        two_convolutions(width // 2, width // 2, width // 2),
        nn.Conv2d(width // 2, width, 3, padding=1),
    )


def object_decoder(channels: int, width: int) -> nn.Sequential:
    """Return the network that draws normal objects alone: its narrow middle cannot pass on details of a defect."""
    narrow = width // 4
    return nn.Sequential(
        two_convolutions(2 * width, 2 * width, 4 * width),
        nn.MaxPool2d(2),
        two_convolutions(4 * width, 4 * width, 8 * width),
        nn.MaxPool2d(2),
        nn.Conv2d(8 * width, narrow, 1),
        transposed(narrow, narrow),
        nn.ReLU(),
        transposed(narrow, narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, width, 3, padding=1),
        ResidualStack(width, rectified=True),
        transposed(width, width // 2),
        nn.ReLU(),
        transposed(width // 2, channels),
    )


class Comparison(nn.Module):
    """A small U-Net on two pictures.

    Args:
        channels: Channels of both pictures together.
        width: Channels at full resolution.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = width, 2 * width, 4 * width, 4 * width
        entering = channels, *widths[:3]
        self.down = nn.ModuleList(two_convolutions(a, b, b) for a, b in zip(entering, widths, strict=True))
        self.pool = nn.MaxPool2d(2)
        leaving = tuple(reversed(widths[:3]))
        below = widths[3], *leaving[:2]
        self.up = nn.ModuleList(enlarging(a, b) for a, b in zip(below, leaving, strict=True))
        self.join = nn.ModuleList(two_convolutions(2 * b, b, b) for b in leaving)
        self.leave = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits `[B, 2, s, s]` of pictures `[B, channels, s, s]`."""
        features = pictures
        kept: list[Tensor] = []
        for number, block in enumerate(self.down):
            features = block(self.pool(features) if number else features)
            kept.append(features)
        for enlarge, join, skipped in zip(self.up, self.join, reversed(kept[:-1]), strict=True):
            features = join(torch.cat([enlarge(features), skipped], 1))
        logits: Tensor = self.leave(features)
        return logits
