"""Patch features of the cells around each cell, for networks with a context."""

from __future__ import annotations

import torch
from torch import Tensor


def neighbouring_cells(grid: int, side: int) -> Tensor:
    """Return the cells of the square around each cell, row by row, int64 `[grid², side²]`.

    Beyond the edge of the grid the nearest cell at the edge repeats.

    Args:
        grid: Side of the grid of cells.
        side: Side of the square in cells, odd.
    """
    offsets = torch.arange(side) - side // 2
    axis = (torch.arange(grid)[:, None] + offsets).clamp(0, grid - 1)  # [grid, side]
    cells = axis[:, None, :, None] * grid + axis[None, :, None, :]  # [grid, grid, side, side]
    return cells.reshape(grid**2, side**2)


def neighbourhoods(rows: Tensor, cells: Tensor, around: Tensor) -> Tensor:
    """Return the features around each of some cells, `[n, side², C]`.

    A background cell has a row of zeros. All its neighbours are 0 too, so that all background cells stay equal.

    Args:
        rows: Rows `[R, C]` of one sample.
        cells: Row of each cell of the grid, int64 `[grid²]`.
        around: Cells of the square around each of n cells, int64 `[n, side²]`, see `neighbouring_cells`.
    """
    features = rows[cells[around]]
    on_part = features[:, around.shape[1] // 2].abs().amax(1) > 0  # [n]
    return features * on_part[:, None, None].to(features.dtype)
