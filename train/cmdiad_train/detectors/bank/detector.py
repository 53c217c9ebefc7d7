"""A detector: patch features, hallucination, memory banks and fusion as one module, which becomes the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.patches import Hallucinated, Patches, PatchFeatures, image_name, input_names
from cmdiad_train.detectors.bank.precision_parts import precision_parts
from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchPlan
from cmdiad_train.detectors.bank.search.proven import search_by
from cmdiad_train.detectors.family import PrecisionParts, TrainedDetector
from cmdiad_train.recipe import Recipe


class Detector(TrainedDetector):
    """The network inputs of one sample to image score and anomaly map.

    The map is the weighted sum of the banks' maps. Where each modality has its own view, the weighted maps of each lie
    over different pixels: they are given one by one, and `Prepared.to_sensor` adds them up over the sensor's image.

    Args:
        recipe: what the detector is made of.
        features: of each main modality, in the order of `recipe.mains`.
        banks: one for each of them, and with hallucination the bank of hallucinated features.
        hallucinated: the missing modality's features, or None.
        score_weights: float `[len(banks)]`, of the linear fusion of image scores.
        map_weights: float `[len(banks)]`, of the linear fusion of maps.

    Attributes:
        input_names: names of the inputs, in the order of `forward`.
    """

    score_weights: Tensor
    map_weights: Tensor

    def __init__(
        self,
        recipe: Recipe,
        features: list[PatchFeatures],
        banks: list[MemoryBank],
        hallucinated: Hallucinated | None = None,
        score_weights: Tensor | None = None,
        map_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self._recipe = recipe
        self.published_blur = recipe.mode == "faithful"
        self.features = nn.ModuleList(features)
        self.hallucinated = hallucinated
        self._fed = [input_names(recipe, modality) for modality in recipe.mains]
        self._shown = image_name(recipe, recipe.mains[0]) if recipe.hallucination == "i2f" else None
        self.input_names = list(dict.fromkeys([*(n for fed in self._fed for n in fed), *filter(None, [self._shown])]))
        grids = [f.grid for f in features] + ([hallucinated.grid] if hallucinated else [])
        self.scorers = nn.ModuleList(
            BankScorer(
                bank,
                grid=grid,
                size=recipe.size,
                published_blur=recipe.mode == "faithful",
                reweight=recipe.image_score == "reweighted",
            )
            for bank, grid in zip(banks, grids, strict=True)
        )
        ones = torch.ones(len(banks))
        self.register_buffer("score_weights", ones if score_weights is None else score_weights)
        self.register_buffer("map_weights", ones if map_weights is None else map_weights)
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Image score float32 `[1]` and anomaly map float32 `[size, size]` of one sample's network inputs.

        With a view for each modality the map is `[maps, size, size]`, weighted maps that add up.
        """
        score, anomaly_map = self.fuse(*self.score_each(self.patches(*inputs)))
        return score.reshape(1), anomaly_map

    def patches(self, *inputs: Tensor) -> list[Patches]:
        """Patch features of each main modality, and with hallucination those of the missing one."""
        named = dict(zip(self.input_names, inputs, strict=True))
        found: list[Patches] = [
            features(*(named[name] for name in fed)) for features, fed in zip(self.features, self._fed, strict=True)
        ]
        if self.hallucinated is not None:
            image = None if self._shown is None else self._main.image(named[self._shown])
            found.append(self.hallucinated(*found[0], image))
        return found

    @property
    def _main(self) -> PatchFeatures:
        main = self.features[0]
        assert isinstance(main, PatchFeatures)
        return main

    def fuse(self, scores: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Score `[]` and map, see `forward`, of unfused scores `[banks]` and maps `[banks, size, size]`."""
        weighted = self.map_weights[:, None, None] * maps
        return (self.score_weights * scores).sum(), weighted.sum(0) if self._recipe.view != "each" else weighted

    @property
    def searches(self) -> list[BankSearch]:
        """The search of each bank, main first; of a detector whose searches prove nothing."""
        return [_unproven(scorer) for scorer in self.scorers]

    def against(self, banks: list[MemoryBank]) -> Detector:
        """This detector with other banks and no fusion weights; it shares its networks."""
        features = [each for each in self.features if isinstance(each, PatchFeatures)]
        return Detector(self._recipe, features, banks, self.hallucinated)

    def plan_search(self, plan: SearchPlan) -> None:
        """Search every bank by this plan."""
        for scorer, search in zip(self.scorers, self.searches, strict=True):
            scorer.search = search_by(search.rows + search.center, plan)

    def halve_banks(self, *, products: bool) -> None:
        """Take the banks to fp16, with or without their products; see `BankSearch.to_half`. Nothing is proven there."""
        for scorer, search in zip(self.scorers, self.searches, strict=True):
            scorer.search = search.to_half() if products else search.to_half_rows()

    def precision_parts(self) -> PrecisionParts:
        """Return the submodules that a reduced precision may change."""
        return precision_parts(self)

    def halve_stored_data(self, *, products: bool) -> None:
        """Store the banks in fp16."""
        self.halve_banks(products=products)

    def score_each(self, patches: list[Patches]) -> tuple[Tensor, Tensor]:
        """Unfused scores `[banks]` and maps `[banks, size, size]` of each bank's patch features."""
        outcomes = [scorer(*found) for scorer, found in zip(self.scorers, patches, strict=True)]
        return torch.stack([score for score, _ in outcomes]), torch.stack([m for _, m in outcomes])


def _unproven(scorer: nn.Module) -> BankSearch:
    search = scorer.search
    assert isinstance(search, BankSearch)
    return search


def as_tensors(inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Network inputs as tensors of their own memory."""
    return {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
