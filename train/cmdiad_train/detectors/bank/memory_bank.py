"""A memory bank of normal features, as data and as the part of the graph that scores against it (method §12)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmdiad_train.detectors.bank.published_blur import PilGaussianBlur
from cmdiad_train.detectors.bank.search.exact import BankSearch
from cmdiad_train.detectors.bank.search.proven import ProvenSearch
from cmdiad_train.detectors.cell_maps import marked_cells, upsampling
from cmdiad_train.recipe import ImageScore

NEIGHBOURS: dict[ImageScore, int] = {"reweighted": 2, "max": 0, "patchcore": 8, "thousandth": 2}
"""Other rows around a bank row that weigh an image score; with the row itself, PatchCore has nine, as in anomalib."""


@dataclass(frozen=True)
class MemoryBank:
    """Reduced normal features with the numbers that normalise queries.

    Attributes:
        rows: Normalised rows float32 `[K, C]`, in order of selection.
        mean: Number that is subtracted from raw features.
        std: Number by which raw features are divided after that.
        neighbours: Nearest other rows of each row, int64 `[K, n]`, for the reweighting; None without.
        weights: Factor float32 `[K]` of a distance to each row; None for 1. Not with the reweighting.
    """

    rows: Tensor
    mean: float
    std: float
    neighbours: Tensor | None
    weights: Tensor | None = None

    @staticmethod
    def from_rows(rows: Tensor, mean: float, std: float, *, neighbours: int = 2) -> MemoryBank:
        """Return a bank of normalised rows, with the table of this number of neighbours unless it is 0."""
        return MemoryBank(rows, mean, std, nearest_others(rows, neighbours) if neighbours else None)

    @property
    def neighbour_count(self) -> int:
        """Return the number of neighbours of each row in the table, 0 without a table."""
        return 0 if self.neighbours is None else self.neighbours.shape[1]

    def exchanged(self, kept: Tensor, added: Tensor, weights: Tensor | None = None) -> MemoryBank:
        """Return the bank with some of its rows, in order, followed by other rows; mean and std stay.

        Only rows whose neighbours change look for new ones.

        Args:
            kept: Rows that stay, bool `[K]`.
            added: Normalised rows float32 `[n, C]`.
            weights: Factors float32 `[n]` of the added rows, for a bank with weights.
        """
        rows = torch.cat([self.rows[kept], added])
        if self.weights is not None:
            assert weights is not None
            weights = torch.cat([self.weights[kept], weights])
        if self.neighbours is None:
            return MemoryBank(rows, self.mean, self.std, None, weights)
        count = min(self.neighbour_count, max(2, len(rows) - 1))
        neighbours = self.neighbours[kept, :count]
        stale = ~kept[neighbours].all(1)
        neighbours = (kept.cumsum(0) - 1)[neighbours]
        if len(added):
            own = rows[: len(stale)]
            nearest = torch.cat([torch.cdist(block, added).amin(1) for block in own.split(1024)])
            stale |= nearest <= torch.linalg.norm(own - own[neighbours[:, -1]], dim=1)
        stale = torch.cat([stale, stale.new_ones(len(added))])
        neighbours = torch.cat([neighbours, neighbours.new_zeros(len(added), count)])
        neighbours[stale] = nearest_others(rows, count, stale.nonzero()[:, 0])
        return MemoryBank(rows, self.mean, self.std, neighbours)


@torch.no_grad()
def nearest_others(rows: Tensor, count: int, chosen: Tensor | None = None) -> Tensor:
    """Return the nearest other rows of each row, nearest first, int64 `[K, count]` (the very first is the row itself).

    Args:
        rows: Rows float32 `[n, C]`, at least 3.
        count: Number of other rows, at least 2. A bank with fewer other rows lists all of them.
        chosen: Rows int64 `[K]` whose neighbours are searched; None takes all.
    """
    if len(rows) < 3:
        raise ValueError(f"a memory bank needs at least 3 rows, got {len(rows)}")
    asked, nearest = rows if chosen is None else rows[chosen], 1 + min(count, len(rows) - 1)
    blocks = [torch.cdist(block, rows).topk(nearest, largest=False).indices[:, 1:] for block in asked.split(1024)]
    return torch.cat(blocks)


class BankScorer(nn.Module):
    """Image score and anomaly map of patch features against one memory bank.

    Args:
        bank: Memory bank.
        grid: Side of the square grid of patches.
        size: Side of the anomaly map in pixels.
        published_blur: True for the published 8-bit blur instead of the float one.
        image_score: Weight of the largest distance, see `BankRecipe.image_score`.
        kept: Inspected pixels of the view, bool `[size, size]`; None without an inspection mask. Patches without such
            a pixel do not take part in the score, and the map is 0 outside the pixels.

    Attributes:
        factors: Factors float32 `[grid²]` that make the distances of the map relative; None keeps plain distances.
    """

    neighbours: Tensor | None
    row_weights: Tensor | None
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
        image_score: ImageScore = "reweighted",
        kept: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.mean, self.std, self.image_score = grid, bank.mean, bank.std, image_score
        self.search: BankSearch | ProvenSearch = BankSearch(bank.rows)
        self.register_buffer("neighbours", bank.neighbours)
        self.register_buffer("row_weights", bank.weights)
        self.register_buffer("factors", None)
        self.register_buffer("upsample", upsampling(grid, size, blur=not published_blur))
        self.register_buffer("kept_cells", None if kept is None else marked_cells(kept, grid).float())
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
        if self.row_weights is not None:
            distance = distance * self.row_weights[index]
        cell_distance = distance[cells]
        return self.score(queries, distance, index, cells), cell_distance

    def score(self, queries: Tensor, distance: Tensor, index: Tensor, cells: Tensor) -> Tensor:
        """Return the largest patch distance, weighted by how usual its bank row is (method §12.2).

        With b rows around the bank row, the weight is 1 - exp(s) / Σ exp(e) of the distance s to the row itself and
        the distances e to those around it. In PatchCore (arXiv 2106.08265, equation 7) the row itself is one of them
        and the distances are those of raw features. The published two-bank form of M3DM divides all distances of the
        score by 1000.
        """
        cell_distance = distance[cells]
        if self.kept_cells is not None:
            cell_distance = cell_distance * self.kept_cells + (self.kept_cells - 1)  # -1 for ignored patches
        worst = cells[cell_distance[None].argmax(1)]  # [1]
        farthest = distance[worst][0]
        if self.image_score == "max":
            return farthest
        assert self.neighbours is not None
        around = self.neighbours[index[worst]][0]  # [n]
        counts_itself = self.image_score == "patchcore"
        scale = self.std if counts_itself else queries.shape[1] ** -0.5
        if self.image_score == "thousandth":
            scale = scale / 1000
        to_neighbours = self.search.distance_to(queries[worst][0], around)
        # The published quotient, divided by its numerator: that one overflows to NaN for the worst of parts.
        weight = 1 - 1 / (torch.exp((to_neighbours - farthest) * scale).sum() + float(counts_itself))
        return weight * farthest / 1000 if self.image_score == "thousandth" else weight * farthest

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
