"""Which row of the image belongs to which cell of the cloud, in the training of the fusion network."""

from __future__ import annotations

import torch
from torch import Tensor

from cmdiad_train.detectors.bank.features.patches import repeated_cells
from cmdiad_train.recipe import Pairing


def paired_cells(pairing: Pairing, grid: int, finer: int) -> Tensor:
    """Return the cell of a grid that is paired with each cell of a finer grid, int64 `[finer²]`.

    The published program exports image rows in another order than it reads them: cell t is paired with the row
    (r·(t mod n) + t div n) mod n, with n rows and r = finer² / n. At 28 and 56 cells per side, 8 of 3136 pairs are
    of the same place. With equal grids both pairings are the same.

    Args:
        pairing: "aligned" or "published".
        grid: Side of the grid of the image.
        finer: Side of the fused grid, a multiple of `grid`.
    """
    if pairing == "aligned":
        return repeated_cells(grid, finer)
    rows, cells = grid**2, torch.arange(finer**2)
    return (finer**2 // rows * (cells % rows) + cells // rows) % rows
