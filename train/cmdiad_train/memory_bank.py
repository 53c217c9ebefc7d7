"""A memory bank of normal features, as data and as the part of the graph that scores against it (REFERENCE §12)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from cmdiad_train.pil_blur import PilGaussianBlur

BLUR_SIGMA = 4.0
CANDIDATES = 4


@dataclass(frozen=True)
class MemoryBank:
    """Reduced normal features and what scoring against them needs.

    Attributes:
        rows: float32 `[K, C]`, normalised, in order of selection.
        mean: subtracted from raw features.
        std: raw features are divided by it after that.
        neighbours: int64 `[K, 2]`, each row's two nearest other rows, for the reweighting.
    """

    rows: Tensor
    mean: float
    std: float
    neighbours: Tensor

    @staticmethod
    def from_rows(rows: Tensor, mean: float, std: float) -> MemoryBank:
        """A bank of normalised rows, with the neighbour table computed."""
        return MemoryBank(rows, mean, std, two_nearest(rows))


@torch.no_grad()
def two_nearest(rows: Tensor) -> Tensor:
    """int64 `[K, 2]`: the second and third of each row's nearest rows (the first is the row itself)."""
    if len(rows) < 3:
        raise ValueError(f"a memory bank needs at least 3 rows, got {len(rows)}")
    blocks = [torch.cdist(block, rows).topk(3, largest=False).indices[:, 1:] for block in rows.split(1024)]
    return torch.cat(blocks)


class BankSearch(nn.Module):
    """Nearest bank row of each query: selected by matrix product, its distance measured by differences in fp32.

    Rows and queries are centred on the bank's mean row. That changes no distance, but it is what the
    product's rounding is relative to.

    Args:
        rows: float32 `[K, C]`.
        candidates: rows per query that are measured exactly. Even an fp32 product orders rows wrongly where they
            lie much closer to the query than to the centre.
    """

    center: Tensor
    rows: Tensor
    half_squares: Tensor

    def __init__(self, rows: Tensor, candidates: int = CANDIDATES) -> None:
        super().__init__()
        self.candidates = min(candidates, len(rows))
        self.scale = 1.0
        center = rows.mean(0)
        self.register_buffer("center", center)
        self.register_buffer("rows", rows - center)
        self.register_buffer("half_squares", self.rows.square().sum(1) / 2)

    def to_half(self) -> BankSearch:
        """The same search with an fp16 bank; rows are scaled by 1/√C so that products stay small."""
        search = BankSearch(self.rows + self.center, self.candidates)
        search.scale = self.rows.shape[1] ** -0.5
        search.rows = (self.rows * search.scale).half()
        search.half_squares = search.rows.float().square().sum(1) / 2
        return search

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Distances float32 `[T]` and indices int64 `[T]` for normalised queries float32 `[T, C]`."""
        queries = (queries - self.center) * self.scale
        product = (queries.to(self.rows.dtype) @ self.rows.T).float()  # [T, K]
        key = product - self.half_squares  # largest where |q - b|² is smallest
        nearest = key.topk(self.candidates, dim=1).indices  # [T, k]
        squared = (queries[:, None] - self.rows[nearest].float()).square().sum(2)
        best, position = squared.min(1)
        return best.sqrt() / self.scale, nearest.gather(1, position[:, None])[:, 0]

    def distance_to(self, query: Tensor, index: Tensor) -> Tensor:
        """Distances float32 `[n]` of one normalised query `[C]` to the rows of `index` `[n]`."""
        difference = (query - self.center)[None] * self.scale - self.rows[index].float()
        return difference.square().sum(1).sqrt() / self.scale


class BankScorer(nn.Module):
    """Image score and anomaly map of patch features against one memory bank.

    Args:
        bank: the bank.
        grid: side of the square grid of patches.
        size: side of the anomaly map in pixels.
        published_blur: the published 8-bit blur instead of the float one.
    """

    neighbours: Tensor
    upsample: Tensor

    def __init__(self, bank: MemoryBank, *, grid: int, size: int, published_blur: bool) -> None:
        super().__init__()
        self.grid, self.mean, self.std = grid, bank.mean, bank.std
        self.search = BankSearch(bank.rows)
        self.register_buffer("neighbours", bank.neighbours)
        self.register_buffer("upsample", upsampling(grid, size, blur=not published_blur))
        self.blur = PilGaussianBlur() if published_blur else nn.Identity()

    def forward(self, rows: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Score `[]` and map `[size, size]` of rows `[R, C]`, where grid cell i has features `rows[cells[i]]`."""
        queries = (rows.float() - self.mean) / self.std
        distance, index = self.search(queries)
        cell_distance = distance[cells]
        return self.score(queries, distance, index, cells), self.map(cell_distance)

    def score(self, queries: Tensor, distance: Tensor, index: Tensor, cells: Tensor) -> Tensor:
        """The largest patch distance, reweighted by how usual its bank row is (REFERENCE §12.2)."""
        worst = cells[distance[cells][None].argmax(1)]  # [1]
        farthest = distance[worst][0]
        around = self.neighbours[index[worst]][0]  # [2]
        scale = queries.shape[1] ** -0.5
        to_neighbours = self.search.distance_to(queries[worst][0], around)
        # The published quotient, divided by its numerator: that one overflows to NaN for the worst of parts.
        weight = 1 - 1 / torch.exp((to_neighbours - farthest) * scale).sum()
        return weight * farthest

    def map(self, cell_distance: Tensor) -> Tensor:
        """The anomaly map `[size, size]` of distances `[grid²]`: bilinear upsampling, then Gaussian blur."""
        distance = cell_distance.reshape(self.grid, self.grid)
        return self.blur(self.upsample @ distance @ self.upsample.T)


def upsampling(grid: int, size: int, *, blur: bool) -> Tensor:
    """One axis of bilinear upsampling (align_corners False), with the Gaussian blur folded in, `[size, grid]`.

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
