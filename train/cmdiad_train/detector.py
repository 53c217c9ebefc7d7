"""The detector: everything after preprocessing, as one module. What it computes is what the graph computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.hallucination import FeatureToFeature
from cmdiad_train.memory_bank import BankScorer, BankSearch, MemoryBank
from cmdiad_train.recipe import Recipe

Extractor = TimmBackbone | PointMae


class PatchFeatures(nn.Module):
    """Patch features of one modality, without repeated rows.

    Args:
        extractor: a TimmBackbone, fed `rgb`, or a PointMae, fed `centers, groups, weights, cells`.
    """

    every_cell: Tensor

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.grid: int = extractor.grid
        self.register_buffer("every_cell", torch.arange(extractor.grid**2), persistent=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Rows float32 `[R, C]` and cells int64 `[grid²]`: grid cell i has features `rows[cells[i]]`.

        For a cloud the rows are `weights @ group features`: interpolation, zero fill and pooling as one
        product (REFERENCE §19.2); row 0 is the background.
        """
        if isinstance(self.extractor, TimmBackbone):
            return self.extractor(inputs[0])[0].float(), self.every_cell
        centers, groups, weights, cells = inputs
        features = self.extractor(centers, groups)[0].float()  # [G, C]
        return weights @ features, cells.long()


class Detector(nn.Module):
    """One main modality to image score and anomaly map, hallucinating the other's features if asked.

    Args:
        recipe: what the detector is made of.
        features: of the main modality.
        banks: the main bank, and with hallucination the bank of hallucinated features.
        network: the distillation network, or None.
        score_weights: float `[len(banks)]`, of the linear fusion of image scores.
        map_weights: float `[len(banks)]`, of the linear fusion of maps.
    """

    score_weights: Tensor
    map_weights: Tensor
    repeat: Tensor

    def __init__(
        self,
        recipe: Recipe,
        features: PatchFeatures,
        banks: list[MemoryBank],
        network: FeatureToFeature | None = None,
        score_weights: Tensor | None = None,
        map_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        faithful = recipe.mode == "faithful"
        self.features, self.network = features, network
        grids = [features.grid, hallucination_grid(recipe, features.grid)][: len(banks)]
        self.scorers = nn.ModuleList(
            BankScorer(bank, grid=grid, size=recipe.size, published_blur=faithful)
            for bank, grid in zip(banks, grids, strict=True)
        )
        ones = torch.ones(len(banks))
        self.register_buffer("score_weights", ones if score_weights is None else score_weights)
        self.register_buffer("map_weights", ones if map_weights is None else map_weights)
        self.register_buffer("repeat", repeated_cells(grids[0], grids[-1]), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Image score float32 `[1]` and anomaly map float32 `[size, size]` of one sample's network inputs."""
        score, anomaly_map = self.fuse(*self.score_each(*self.features(*inputs)))
        return score.reshape(1), anomaly_map

    def fuse(self, scores: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Score `[]` and map `[size, size]` of unfused scores `[banks]` and maps `[banks, size, size]`."""
        return (self.score_weights * scores).sum(), (self.map_weights[:, None, None] * maps).sum(0)

    @property
    def searches(self) -> list[BankSearch]:
        """The search of each bank, main first."""
        return [scorer.search for scorer in self.scorers if isinstance(scorer, BankScorer)]

    def halve_banks(self) -> None:
        """Take the banks to fp16; see `BankSearch.to_half`."""
        for scorer in self.scorers:
            assert isinstance(scorer, BankScorer)
            scorer.search = scorer.search.to_half()

    def score_each(self, rows: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Unfused scores `[banks]` and maps `[banks, size, size]` of patch features."""
        branches = [(rows, cells)]
        if self.network is not None:
            branches.append((self.network(rows).float(), cells[self.repeat]))
        outcomes = [scorer(*branch) for scorer, branch in zip(self.scorers, branches, strict=True)]
        return torch.stack([score for score, _ in outcomes]), torch.stack([m for _, m in outcomes])


def as_tensors(inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Network inputs as tensors of their own memory."""
    return {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}


def hallucination_grid(recipe: Recipe, main_grid: int) -> int:
    """Side of the grid of hallucinated features: the main one, or the finer of both as published (§8)."""
    if recipe.mode == "faithful" and recipe.modality == "rgb":
        return max(main_grid, recipe.xyz.grid)
    return main_grid


def repeated_cells(grid: int, finer: int) -> Tensor:
    """int64 `[finer²]`: the cell of a grid that each cell of a finer grid repeats."""
    axis = torch.arange(finer) * grid // finer
    return (axis[:, None] * grid + axis[None]).reshape(-1)


def regrid(features: Tensor, grid: int, target: int) -> Tensor:
    """Features `[grid², C]` on a grid of another size, `[target², C]`, by adaptive average pooling.

    Towards a whole multiple this is an exact repetition (REFERENCE §5).
    """
    if grid == target:
        return features
    image = features.T.reshape(1, -1, grid, grid)
    return F.adaptive_avg_pool2d(image, target)[0].flatten(1).T
