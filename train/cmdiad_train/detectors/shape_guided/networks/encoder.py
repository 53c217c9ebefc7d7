"""The encoder: a patch of points to a code, by a PointNet without transforms (Shape-Guided, ICML 2023)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

CODE = 128
"""Numbers of a code."""
_POINT_WIDTHS = (3, 64, 128, 1024)
_CODE_WIDTHS = (1024, 512, CODE)


class Encoder(nn.Module):
    """Patches to codes, which are not negative. 734 848 parameters, as published.

    The layers of points are linear layers on rows. That equals the published convolutions of width 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _linear_layers(_POINT_WIDTHS)
        self.fc1, self.fc2 = _linear_layers(_CODE_WIDTHS)
        widths = (*_POINT_WIDTHS[1:], *_CODE_WIDTHS[1:])
        self.bn1, self.bn2, self.bn3, self.bn4, self.bn5 = (nn.BatchNorm1d(width) for width in widths)

    def forward(self, patches: Tensor) -> Tensor:
        """Return codes `[P, 128]` of normalised patches `[P, M, 3]`."""
        rows = patches.flatten(0, 1)  # [P·M, 3]
        for layer, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            rows = F.relu(norm(layer(rows)))
        code = rows.unflatten(0, patches.shape[:2]).amax(1)  # [P, 1024]
        return F.relu(self.bn5(self.fc2(F.relu(self.bn4(self.fc1(code))))))


class FoldedEncoder(nn.Module):
    """An encoder for inspection, with the BatchNorms folded into the layers.

    Args:
        encoder: Trained encoder in eval mode.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        points = ((encoder.conv1, encoder.bn1), (encoder.conv2, encoder.bn2), (encoder.conv3, encoder.bn3))
        self.points = nn.ModuleList(fuse_linear_bn_eval(layer, norm) for layer, norm in points)
        codes = ((encoder.fc1, encoder.bn4), (encoder.fc2, encoder.bn5))
        self.codes = nn.ModuleList(fuse_linear_bn_eval(layer, norm) for layer, norm in codes)

    def forward(self, patches: Tensor) -> Tensor:
        """Return codes `[P, 128]` of normalised patches `[P, M, 3]`."""
        rows = patches
        for layer in self.points:
            rows = F.relu(layer(rows))
        code = rows.amax(1)
        for layer in self.codes:
            code = F.relu(layer(code))
        return code


def _linear_layers(widths: tuple[int, ...]) -> list[nn.Linear]:
    return [nn.Linear(width, out) for width, out in pairwise(widths)]
