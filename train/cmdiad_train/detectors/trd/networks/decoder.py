"""The decoder: reconstructs the teacher's features from the bottleneck, from coarse to fine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmdiad_train.detectors.trd.networks.shapes import TeacherShape
from cmdiad_train.detectors.trd.networks.units import initialise, stage


class Decoder(nn.Module):
    """The teacher mirrored: residual units whose first one in a stage doubles the resolution.

    With an Amplifier, each level is a weighted sum of what the stage returns and what the Amplifier predicts, and the
    next stage receives this sum. Two learned scalars per level set the weights.

    Args:
        shape: Shape of the own teacher.
        amplified: True if the features that the Amplifier predicts are mixed in.

    Attributes:
        w_a: Scalars of level 3, `[2]`: for the stage and for the Amplifier. Their softmax is the pair of weights.
        w_b: Scalars of level 2.
        w_c: Scalars of level 1.
    """

    w_a: nn.Parameter
    w_b: nn.Parameter
    w_c: nn.Parameter

    def __init__(self, shape: TeacherShape, *, amplified: bool) -> None:
        super().__init__()
        first, second, third = shape.channels
        self.layer1 = stage(shape.bottleneck_channels, third, shape.depths[0], "double", shape)
        self.layer2 = stage(third, second, shape.depths[1], "double", shape)
        self.layer3 = stage(second, first, shape.depths[2], "double", shape)
        if amplified:
            self.w_a, self.w_b, self.w_c = (nn.Parameter(torch.ones(2)) for _ in range(3))
        initialise(self)

    def forward(self, bottleneck: Tensor, amplified: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the reconstructed features of levels 1-3, before and after mixing.

        Args:
            bottleneck: Output of the bottleneck.
            amplified: Features of levels 1-3 that the Amplifier predicts; empty without one.
        """
        stages = (self.layer1, self.layer2, self.layer3)
        if not amplified:
            raw = _in_a_row(stages, bottleneck)
            return raw, raw
        raw, fused = [], [bottleneck]
        for run, weights, predicted in zip(stages, self.level_weights().flip(0), reversed(amplified), strict=True):
            raw.append(run(fused[-1]))
            fused.append(weights[0] * raw[-1] + weights[1] * predicted)
        return raw[::-1], fused[:0:-1]

    def level_weights(self) -> Tensor:
        """Return the weights of levels 1-3, `[3, 2]`: of the stage, and of the Amplifier. Each pair adds up to 1."""
        return torch.stack([self.w_c, self.w_b, self.w_a]).softmax(1)


def _in_a_row(stages: tuple[nn.Module, ...], x: Tensor) -> list[Tensor]:
    """Return the outputs of the stages, the last one first."""
    outputs: list[Tensor] = []
    for run in stages:
        x = run(x)
        outputs.insert(0, x)
    return outputs
