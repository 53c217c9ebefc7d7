"""Patch features of the cells around each cell, and the place of the cell, for networks that see more than a row."""

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


def cell_places(grid: int) -> Tensor:
    """Return the place of each cell in the view, x and y of its centre from -1 to 1, float32 `[grid², 2]`.

    Args:
        grid: Side of the grid of cells.
    """
    axis = (torch.arange(grid) + 0.5) * 2 / grid - 1
    return torch.stack([axis.repeat(grid), axis.repeat_interleave(grid)], 1)


def with_places(features: Tensor, places: Tensor) -> Tensor:
    """Return features `[n, C + 2]`, or `[n, side², C + 2]` of neighbourhoods, that end with the place of their cell.

    A background cell, whose features are zeros, has no place: all background cells stay equal.

    Args:
        features: Features `[n, C]`, or `[n, side², C]` from `neighbourhoods`.
        places: Place `[n, 2]` of each cell, see `cell_places`.
    """
    on_part = features.flatten(1).abs().amax(1, keepdim=True) > 0  # [n, 1]
    own = places.to(features.dtype) * on_part.to(features.dtype)
    if features.ndim == 3:
        own = own[:, None].expand(-1, features.shape[1], -1)
    return torch.cat([features, own], -1)
