"""The Filter: hour-glasses that bring the other modality's features into the student's bottleneck."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from cmdiad_train.detectors.trd.networks.shapes import Levels
from cmdiad_train.detectors.trd.networks.units import doubling, initialise

STEPS = (3, 2, 1)
"""How often the hour-glasses of levels 1, 2 and 3 halve the resolution, so that all end at stride 32."""


class Filter(nn.Module):
    """Predicts own features from those of the other modality through a narrow passage, which filters anomalies.

    Args:
        source: Channels of the other modality's features.
        target: Channels of the own features.
    """

    def __init__(self, source: Levels, target: Levels) -> None:
        super().__init__()
        levels = zip(source, target, STEPS, strict=True)
        self.conv_a, self.conv_b, self.conv_c = (_hour_glass(*level) for level in levels)
        initialise(self)

    def forward(self, other: list[Tensor]) -> list[Tensor]:
        """Return filtered features of levels 1-3, `[B, target, h, w]`, of the other modality's `[B, source, h, w]`."""
        return [self.conv_a(other[0]), self.conv_b(other[1]), self.conv_c(other[2])]


def _hour_glass(source: int, target: int, steps: int) -> nn.Sequential:
    """Return convolutions that double the channels while they halve the resolution, and their reverse."""
    down = [source * 2**step for step in range(steps + 1)]
    up = [down[-1], *(target * 2**step for step in reversed(range(steps)))]
    halving = [nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in pairwise(down)]
    layers = [*halving, *(doubling(a, b) for a, b in pairwise(up))]
    modules = [m for layer in layers for m in (layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU())]
    return nn.Sequential(*modules)
