"""Image score and anomaly map of the residual rows of a prediction, without a memory bank."""

from __future__ import annotations

from torch import Tensor, nn

from cmdiad_train.detectors.cell_maps import marked_cells, upsampling


class ResidualScorer(nn.Module):
    """Image score and anomaly map of residuals: the Euclidean length of the residual of each cell.

    Args:
        grid: Side of the square grid of cells.
        size: Side of the anomaly map in pixels.
        kept: Inspected pixels of the view, bool `[size, size]`; None without an inspection mask. Cells without such a
            pixel do not take part in the score, and the map is 0 outside the pixels.
    """

    upsample: Tensor
    kept_cells: Tensor | None
    kept_pixels: Tensor | None

    def __init__(self, *, grid: int, size: int, kept: Tensor | None) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("upsample", upsampling(grid, size, blur=True))
        self.register_buffer("kept_cells", None if kept is None else marked_cells(kept, grid).float())
        self.register_buffer("kept_pixels", None if kept is None else kept.float())

    def forward(self, rows: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return score `[]` and map `[size, size]` of residual rows `[R, C]`; grid cell i has `rows[cells[i]]`."""
        distance = rows.square().sum(1).sqrt()[cells]
        if self.kept_cells is not None:
            distance = distance * self.kept_cells
        anomaly_map = self.upsample @ distance.reshape(self.grid, self.grid) @ self.upsample.T
        return distance.amax(0), anomaly_map if self.kept_pixels is None else anomaly_map * self.kept_pixels
