"""The Amplifier: predicts the features of a modality from those of the other at full resolution."""

from __future__ import annotations

from torch import Tensor, nn

from cmdiad_train.detectors.trd.networks.shapes import Levels
from cmdiad_train.detectors.trd.networks.units import convolution, initialise


class Amplifier(nn.Module):
    """Predicts own features from those of the other modality, place by place, which amplifies disagreement.

    Args:
        source: Channels of the other modality's features.
        target: Channels of the own features.
    """

    def __init__(self, source: Levels, target: Levels) -> None:
        super().__init__()
        self.conv_a, self.conv_b, self.conv_c = (_stack(*level) for level in zip(source, target, strict=True))
        initialise(self)

    def forward(self, other: list[Tensor]) -> list[Tensor]:
        """Return predicted features of levels 1-3, `[B, target, h, w]`, of the other modality's `[B, source, h, w]`.

        The loss fixes their direction only: their magnitude is arbitrary.
        """
        return [self.conv_a(other[0]), self.conv_b(other[1]), self.conv_c(other[2])]


def _stack(source: int, target: int) -> nn.Sequential:
    layers = [convolution(source, target, 3), convolution(target, 2 * target, 1), convolution(2 * target, target, 1)]
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU())))
