"""The bottleneck: one-class embedding of the features of all levels at stride 32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_train.detectors.trd.networks.shapes import TeacherShape
from cmdiad_train.detectors.trd.networks.units import convolution, initialise, stage


class Bottleneck(nn.Module):
    """Compresses own features, and those that the Filter predicts, to stride 32.

    Every level is brought to stride 16 and to the channels of level 3, then residual units halve the resolution of all
    together. Without a Filter, level 3 enters as it is.

    Args:
        shape: Shape of the own teacher.
        filtered: True if filtered features are added to the own ones.
    """

    def __init__(self, shape: TeacherShape, *, filtered: bool) -> None:
        super().__init__()
        inputs = 2 if filtered else 1
        first, second, third = (inputs * channels for channels in shape.channels)
        out = shape.channels[2]
        self.conv1, self.bn1 = convolution(first, second, 3, stride=2), nn.BatchNorm2d(second)
        self.conv2, self.bn2 = convolution(second, out, 3, stride=2), nn.BatchNorm2d(out)
        self.conv3, self.bn3 = convolution(second, out, 3, stride=2), nn.BatchNorm2d(out)
        self._filtered = filtered
        if filtered:
            self.conv4, self.bn4 = convolution(third, out, 3), nn.BatchNorm2d(out)
        self.bn_layer = stage(3 * out, shape.bottleneck_channels, shape.depths[0], "halve", shape)
        initialise(self)

    def forward(self, own: list[Tensor], filtered: list[Tensor]) -> Tensor:
        """Return the embedding `[B, bottleneck_channels, size/32, size/32]`.

        Args:
            own: Own features of levels 1-3.
            filtered: Filtered features of levels 1-3; empty without a Filter.
        """
        first, second, third = own
        if self._filtered:
            first, second, third = (torch.cat(pair, 1) for pair in zip(own, filtered, strict=True))
            third = F.relu(self.bn4(self.conv4(third)))
        first = F.relu(self.bn1(self.conv1(first)))
        first = F.relu(self.bn2(self.conv2(first)))
        second = F.relu(self.bn3(self.conv3(second)))
        return self.bn_layer(torch.cat([first, second, third], 1))
