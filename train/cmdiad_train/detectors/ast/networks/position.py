"""The position code, which tells the networks where in the view a cell lies."""

from __future__ import annotations

import torch
from torch import Tensor

CODE_CHANNELS = 32
_WAVES = CODE_CHANNELS // 4
_LONGEST = 10000.0


def position_code(grid: int) -> Tensor:
    """Return sines and cosines of columns, then of rows, float32 `[1, 32, grid, grid]` (AST, published code).

    The frequencies are 10000^(-i/8), i = 0..7; sine and cosine of one frequency lie next to each other.
    """
    place = torch.arange(grid, dtype=torch.float64)
    frequencies = _LONGEST ** (-torch.arange(_WAVES, dtype=torch.float64) / _WAVES)
    angles = place * frequencies[:, None]  # [waves, grid]
    waves = torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)  # [2·waves, grid]
    columns = waves[:, None, :].expand(-1, grid, -1)
    rows = waves[:, :, None].expand(-1, -1, grid)
    return torch.cat([columns, rows])[None].float()
