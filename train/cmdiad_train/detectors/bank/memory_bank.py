"""A memory bank of normal features, as data and as the part of the graph that scores against it (method §12)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from cmdiad_train.detectors.bank.published_blur import PilGaussianBlur
from cmdiad_train.detectors.bank.search.exact import BankSearch
from cmdiad_train.detectors.bank.search.proven import ProvenSearch

BLUR_SIGMA = 4.0


@dataclass(frozen=True)
class MemoryBank:
    """Reduced normal features with the numbers that normalise queries.

    Attributes:
        rows: Normalised rows float32 `[K, C]`, in order of selection.
        mean: Number that is subtracted from raw features.
        std: Number by which raw features are divided after that.
        neighbours: Two nearest other rows of each row, int64 `[K, 2]`, for the reweighting; None without.
    """

    rows: Tensor
    mean: float
    std: float
    neighbours: Tensor | None

    @staticmethod
    def from_rows(rows: Tensor, mean: float, std: float, *, reweight: bool = True) -> MemoryBank:
        """Return a bank of normalised rows, with the neighbour table if scores are reweighted."""
        return MemoryBank(rows, mean, std, two_nearest(rows) if reweight else None)

    def exchanged(self, kept: Tensor, added: Tensor) -> MemoryBank:
        """Return the bank with some of its rows, in order, followed by other rows; mean and std stay.

        Only rows whose neighbours change look for new ones.

        Args:
            kept: Rows that stay, bool `[K]`.
            added: Normalised rows float32 `[n, C]`.
        """
        rows = torch.cat([self.rows[kept], added])
        if self.neighbours is None:
            return MemoryBank(rows, self.mean, self.std, None)
        neighbours = self.neighbours[kept]
        stale = ~kept[neighbours].all(1)
        neighbours = (kept.cumsum(0) - 1)[neighbours]
        if len(added):
            own = rows[: len(stale)]
            nearest = torch.cat([torch.cdist(block, added).amin(1) for block in own.split(1024)])
            stale |= nearest <= torch.linalg.norm(own - own[neighbours[:, 1]], dim=1)
        stale = torch.cat([stale, stale.new_ones(len(added))])
        neighbours = torch.cat([neighbours, neighbours.new_zeros(len(added), 2)])
        neighbours[stale] = two_nearest(rows, stale.nonzero()[:, 0])
        return MemoryBank(rows, self.mean, self.std, neighbours)


@torch.no_grad()
def two_nearest(rows: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Return the second and third nearest row of each row, int64 `[K, 2]` (the first is the row itself).

    Args:
        rows: Rows float32 `[n, C]`.
        chosen: Rows int64 `[K]` whose neighbours are searched; None takes all.
    """
    if len(rows) < 3:
        raise ValueError(f"a memory bank needs at least 3 rows, got {len(rows)}")
    asked = rows if chosen is None else rows[chosen]
    blocks = [torch.cdist(block, rows).topk(3, largest=False).indices[:, 1:] for block in asked.split(1024)]
    return torch.cat(blocks)


class BankScorer(nn.Module):
    """Image score and anomaly map of patch features against one memory bank.

    Args:
        bank: Memory bank.
        grid: Side of the square grid of patches.
        size: Side of the anomaly map in pixels.
        published_blur: True for the published 8-bit blur instead of the float one.
        reweight: True to weigh the largest distance by how usual the bank row is, as published.
        kept: Inspected pixels of the view, bool `[size, size]`; None without an inspection mask. Patches without such
            a pixel do not take part in the score, and the map is 0 outside the pixels.

    Attributes:
        factors: Factors float32 `[grid²]` that make the distances of the map relative; None keeps plain distances.
    """

    neighbours: Tensor | None
    factors: Tensor | None
    upsample: Tensor
    kept_cells: Tensor | None
    kept_pixels: Tensor | None

    def __init__(
        self,
        bank: MemoryBank,
        *,
        grid: int,
        size: int,
        published_blur: bool,
        reweight: bool = True,
        kept: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.mean, self.std, self.reweight = grid, bank.mean, bank.std, reweight
        self.search: BankSearch | ProvenSearch = BankSearch(bank.rows)
        self.register_buffer("neighbours", bank.neighbours)
        self.register_buffer("factors", None)
        self.register_buffer("upsample", upsampling(grid, size, blur=not published_blur))
        self.register_buffer("kept_cells", None if kept is None else kept_cells(kept, grid).float())
        self.register_buffer("kept_pixels", None if kept is None else kept.float())
        self.blur = PilGaussianBlur() if published_blur else nn.Identity()

    def forward(self, rows: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return score `[]` and map `[size, size]` of rows `[R, C]`; grid cell i has features `rows[cells[i]]`."""
        score, cell_distance = self.compare(rows, cells)
        return score, self.map(cell_distance)

    def compare(self, rows: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return score `[]` and plain distances `[grid²]` of the cells; arguments as of `forward`."""
        queries = (rows.float() - self.mean) / self.std
        distance, index = self.search(queries)
        cell_distance = distance[cells]
        return self.score(queries, distance, index, cells), cell_distance

    def score(self, queries: Tensor, distance: Tensor, index: Tensor, cells: Tensor) -> Tensor:
        """Return the largest patch distance, reweighted by how usual the bank row is (method §12.2)."""
        cell_distance = distance[cells]
        if self.kept_cells is not None:
            cell_distance = cell_distance * self.kept_cells + (self.kept_cells - 1)  # -1 for ignored patches
        worst = cells[cell_distance[None].argmax(1)]  # [1]
        farthest = distance[worst][0]
        if not self.reweight:
            return farthest
        assert self.neighbours is not None
        around = self.neighbours[index[worst]][0]  # [2]
        scale = queries.shape[1] ** -0.5
        to_neighbours = self.search.distance_to(queries[worst][0], around)
        # The published quotient, divided by its numerator: that one overflows to NaN for the worst of parts.
        weight = 1 - 1 / torch.exp((to_neighbours - farthest) * scale).sum()
        return weight * farthest

    def map(self, cell_distance: Tensor) -> Tensor:
        """Return the anomaly map `[size, size]` of plain distances `[grid²]`: bilinear upsampling, then Gaussian blur.

        With `factors`, the distances become relative first.
        """
        if self.factors is not None:
            cell_distance = cell_distance * self.factors
        if self.kept_cells is not None:
            cell_distance = cell_distance * self.kept_cells
        distance = cell_distance.reshape(self.grid, self.grid)
        anomaly_map: Tensor = self.blur(self.upsample @ distance @ self.upsample.T)
        return anomaly_map if self.kept_pixels is None else anomaly_map * self.kept_pixels


def kept_cells(kept: Tensor, grid: int) -> Tensor:
    """Return the patches with an inspected pixel, bool `[grid²]`.

    Args:
        kept: Inspected pixels of the view, bool `[size, size]`.
        grid: Side of the square grid of patches.
    """
    stride = kept.shape[-1] // grid
    kernel = kept.shape[-1] - stride * (grid - 1)  # the stride where the grid divides the side, else wider
    return F.max_pool2d(kept.float()[None, None], kernel, stride).flatten() > 0


def upsampling(grid: int, size: int, *, blur: bool) -> Tensor:
    """Return one axis of bilinear upsampling (align_corners False) with the Gaussian blur folded in, `[size, grid]`.

    Both are linear and separable, so the map is A·D·Aᵀ: no resize or padding operator whose meaning differs
    between engines. Edge pixels are replicated; the kernel ends at 4σ.
    """
    centre = (np.arange(size) + 0.5) * grid / size - 0.5
    low = np.clip(np.floor(centre), 0, grid - 1).astype(int)
    high = np.minimum(low + 1, grid - 1)
    fraction = np.clip(centre - low, 0, 1)
    matrix = np.zeros((size, grid))
    np.add.at(matrix, (np.arange(size), low), 1 - fraction)
    np.add.at(matrix, (np.arange(size), high), fraction)
    if blur:
        matrix = gaussian_filter1d(matrix, BLUR_SIGMA, axis=0, mode="nearest", truncate=4.0)
    return torch.from_numpy(matrix.astype(np.float32))
