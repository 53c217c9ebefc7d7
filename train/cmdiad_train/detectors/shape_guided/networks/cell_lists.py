"""Cells of the image that belong to patches of the cloud (Shape-Guided, ICML 2023).

A patch lists cells near its points. The rows of image features at these cells are the rows of the patch.
"""

from __future__ import annotations

import torch
from torch import Tensor

REACH = 2
"""Cells between a point's cell and the farthest cells that its patch lists, along rows and columns."""


def near_cells(grid: int, *, published: bool) -> Tensor:
    """Return the cells that a patch with a point in some cell lists, 0 or 1, float32 `[grid², grid²]`.

    A row is the cell of the point, and a column is a listed cell. By default, these are all cells at most `REACH` rows
    and columns away. The published list has the four cells `REACH` rows or columns away alone, by number, so that it
    lacks the cell itself and continues in the next row at the border. Numbers outside the grid are left out; the
    published program replaces them by others of the same list.

    Args:
        grid: Side of the square grid of cells.
        published: True for the published list.
    """
    cells = torch.arange(grid**2)
    if published:
        steps = cells - cells[:, None]
        return ((steps.abs() == REACH) | (steps.abs() == REACH * grid)).float()
    rows, columns = cells // grid, cells % grid
    return (_near(rows) & _near(columns)).float()


def cells_of_patches(cover: Tensor, patches: int, points: int, grid: int) -> Tensor:
    """Return the cells in which each patch has a point, 0 or 1, float32 `[patches, grid²]`.

    Args:
        cover: Places of each pixel, int32 `[size, size, K]`; see `cmdiad_runtime.preprocess.cloud.patches.PatchInput`.
        patches: Number of patches. Places in later ones, which equal the first patch, are left out.
        points: Points per patch.
        grid: Side of the square grid of cells, a divisor of `size`.
    """
    side = cover.shape[0] // grid
    row, column, place = cover.nonzero(as_tuple=True)
    patch = (cover[row, column, place].long() - 1) // points
    cell = row // side * grid + column // side
    shown, inside = torch.zeros(patches, grid**2), patch < patches
    shown[patch[inside], cell[inside]] = 1
    return shown


def listing_patches(listed: Tensor) -> Tensor:
    """Return the patches that list each cell, indices int32 `[n, widest]`; shorter lists repeat their first patch.

    Args:
        listed: Positive where a patch lists a cell, float32 `[patches, n]`; some patch lists each of the cells.
    """
    marked = listed.T > 0  # [n, patches]
    count = marked.sum(1, keepdim=True)
    order = marked.int().argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
    return torch.where(torch.arange(order.shape[1]) < count, order, order[:, :1]).int()


def joined_listings(listings: list[Tensor], patches: list[int]) -> Tensor:
    """Return the listings of several samples as one, int32 `[n of all samples, widest]`.

    Args:
        listings: Result of `listing_patches` for each sample.
        patches: Number of patches of each sample; the patches of all samples are counted through.
    """
    widest = max(listing.shape[1] for listing in listings)
    firsts = torch.tensor([0, *patches[:-1]]).cumsum(0).int()
    parts = []
    for listing, first in zip(listings, firsts, strict=True):
        repeated = listing[:, :1].expand(-1, widest - listing.shape[1])
        parts.append(torch.cat([listing, repeated], 1) + first)
    return torch.cat(parts)


def _near(numbers: Tensor) -> Tensor:
    return (numbers - numbers[:, None]).abs() <= REACH
