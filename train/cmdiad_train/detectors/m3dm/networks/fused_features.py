"""Fused patch features: both halves of the fusion network, cell by cell on the finer grid of both modalities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.features.joined import JoinedFeatures
from cmdiad_train.detectors.bank.features.patches import repeated_cells
from cmdiad_train.detectors.m3dm.networks.fusion_network import Half


class FusedFeatures(JoinedFeatures):
    """Fused rows of one sample, the half of the cloud first.

    Each half sees the distinct rows of its modality, before they are repeated on the finer grid. With one half alone
    the cells are those of its modality.

    Args:
        halves: Half of each main modality, in their order.
        grids: Side of the grid of each main modality.
        cut_out: True if all modalities are images with the background at 0, whose background cells share a row.

    Raises:
        RunError: The grid of one modality does not divide that of the other.
    """

    every_cell: Tensor

    def __init__(self, halves: Sequence[Half], grids: Sequence[int], *, cut_out: bool) -> None:
        super().__init__()
        self.grid = fused_grid(grids)
        self.halves = nn.ModuleList(halves)
        self.networks = tuple(f"halves.{i}.{part}" for i in range(len(halves)) for part in ("norm", "mlp"))
        self.reads_every_cell = len(halves) > 1
        self._shares_background = cut_out and len(set(grids)) == 1
        self.register_buffer("every_cell", torch.arange(self.grid**2), persistent=False)
        for i, grid in enumerate(grids):
            self.register_buffer(f"repeat{i}", repeated_cells(grid, self.grid), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, patches: Sequence[Patches]) -> Patches:
        """Return fused rows float32 `[R, C]` and cells int64 `[grid²]`; see `JoinedFeatures`."""
        rows = [half(of_modality) for half, (of_modality, _) in zip(self.halves, patches, strict=True)]
        if len(rows) == 1:
            return rows[0], patches[0][1]
        cells = [of_modality[self.get_buffer(f"repeat{i}")] for i, (_, of_modality) in enumerate(patches)]
        fused = torch.cat([of_modality[chosen] for of_modality, chosen in zip(rows, cells, strict=True)], 1)
        if self._shares_background:  # then a row belongs to the cell of its number, in both modalities
            return fused, torch.where(cells[0] == cells[1], cells[0], self.every_cell)
        return fused, self.every_cell


def fused_grid(grids: Sequence[int]) -> int:
    """Return the side of the finer grid of all modalities.

    Raises:
        RunError: A grid does not divide the finer one.
    """
    finer = max(grids)
    if any(finer % grid for grid in grids):
        raise RunError(
            "feature fusion",
            found=f"grids of {' and '.join(map(str, grids))} cells per side",
            expected="one grid, or one that is a multiple of the other",
            action="Choose --rgb-grid, and --surface-grid or --xyz-grid, accordingly",
        )
    return finer
