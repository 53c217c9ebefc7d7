"""The Amplifier: predicts the features of a modality from those of the other at full resolution."""

from __future__ import annotations

from torch import Tensor, nn

from cmdiad_train.detectors.trd.networks.shapes import Levels
from cmdiad_train.detectors.trd.networks.units import convolution, initialise, predictor


class Amplifier(nn.Module):
    """Predicts own features from those of the other modality, place by place, which amplifies disagreement.

    Args:
        source: Channels of the other modality's features.
        target: Channels of the own features.
        signed: True if own features have negative values.
    """

    def __init__(self, source: Levels, target: Levels, *, signed: bool = False) -> None:
        super().__init__()
        levels = zip(source, target, strict=True)
        self.conv_a, self.conv_b, self.conv_c = (_stack(*level, signed=signed) for level in levels)
        initialise(self)

    def forward(self, other: list[Tensor]) -> list[Tensor]:
        """Return predicted features of levels 1-3, `[B, target, h, w]`, of the other modality's `[B, source, h, w]`.

        The loss fixes their direction only: their magnitude is arbitrary.
        """
        return [self.conv_a(other[0]), self.conv_b(other[1]), self.conv_c(other[2])]


def _stack(source: int, target: int, *, signed: bool) -> nn.Sequential:
    layers = [convolution(source, target, 3), convolution(target, 2 * target, 1), convolution(2 * target, target, 1)]
    return predictor(layers, signed=signed)
