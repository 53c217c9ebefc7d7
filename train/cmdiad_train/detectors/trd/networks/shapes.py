"""Sizes of a student, which follow from its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UnitKind = Literal["basic", "bottleneck"]
Levels = tuple[int, int, int]
"""One number per level: the features of strides 4, 8 and 16."""

EXPANSION = 4
"""Output channels of a bottleneck unit per plane, as in every ResNet with such units."""


@dataclass(frozen=True)
class TeacherShape:
    """The sizes of a teacher that its student needs.

    Attributes:
        channels: Channels of the features of levels 1, 2 and 3.
        unit: Kind of residual unit in bottleneck and decoder, "basic" or "bottleneck".
        depths: Units in the decoder stages of levels 3, 2 and 1. The bottleneck has as many units as the first stage.
        width_factor: Inner width of a bottleneck unit in planes: 1 as in ResNet-50, 2 as in WideResNet-50-2.
    """

    channels: Levels
    unit: UnitKind = "basic"
    depths: Levels = (2, 2, 2)
    width_factor: int = 1

    @property
    def bottleneck_channels(self) -> int:
        """Return the channels of the bottleneck's output."""
        return 2 * self.channels[2]

    def inner_width(self, channels: int) -> int:
        """Return the inner width of a bottleneck unit with these output channels."""
        return channels // EXPANSION * self.width_factor
