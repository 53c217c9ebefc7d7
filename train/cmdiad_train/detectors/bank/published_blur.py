"""The published blur: Pillow's Gaussian on 8 bits, as exportable integer arithmetic (method §12.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RADIUS = 3  # of the extended box filter that Pillow derives from its Gaussian radius 4
FULL_WEIGHT = int(2**24 / 7.875)  # 7.875 = 2 · 3.4375 + 1
EDGE_WEIGHT = (2**24 - 7 * FULL_WEIGHT) // 2
PASSES = 3


class PilGaussianBlur(nn.Module):
    """Pillow's `GaussianBlur(4)` of a map quantised to 256 levels of the maximum of the map, bit by bit."""

    def forward(self, image: Tensor) -> Tensor:
        """Return the blurred map float32 `[h, w]` of a non-negative float32 `[h, w]`; an all-zero map stays zero."""
        highest = image.amax((0, 1))
        divisor = torch.where(highest > 0, highest, torch.ones_like(highest))
        levels = (255 * (image / divisor)).to(torch.int64)
        levels = _box_passes(_box_passes(levels).T).T
        return levels.to(torch.float32) / 255 * highest


def _box_passes(levels: Tensor) -> Tensor:
    """Apply three extended-box passes along the last axis, each rounded to 8 bits, edges replicated."""
    for _ in range(PASSES):
        reach = RADIUS + 1
        width = levels.shape[1]
        index = torch.arange(-reach, width + reach).clamp(0, width - 1)
        padded = levels[:, index]
        inner = sum(padded[:, i : i + width] for i in range(1, 2 * reach))
        edges = padded[:, :width] + padded[:, 2 * reach : 2 * reach + width]
        levels = (FULL_WEIGHT * inner + EDGE_WEIGHT * edges + 2**23) // 2**24
    return levels
