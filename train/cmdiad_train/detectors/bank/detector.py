"""The memory bank detector: patch features, hallucination, banks and fusion as one module, which becomes the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmdiad_runtime.engines.searched_cells import SUFFIX
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.features.joined import JoinedFeatures
from cmdiad_train.detectors.bank.features.patches import Hallucinated, PatchFeatures, image_name, input_names
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.precision_parts import precision_parts
from cmdiad_train.detectors.bank.residual_scorer import ResidualScorer
from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings
from cmdiad_train.detectors.bank.search.proven import search_by
from cmdiad_train.detectors.family import PrecisionParts, TrainedDetector
from cmdiad_train.recipe import Recipe, bank_part


class Detector(TrainedDetector):
    """The network inputs of one sample to image score and anomaly map.

    The map is the weighted sum of the maps of the banks. If each modality has its own view, the weighted maps lie over
    different pixels: they are returned one by one, and `Prepared.to_sensor` adds them over the image of the sensor.

    Args:
        recipe: Recipe of the detector.
        features: Patch features of each main modality, in the order of `recipe.mains`.
        banks: One bank for each of them, and a further one for hallucinated or joined features. Enhanced features have
            one bank: that of the main features and the hallucinated ones together.
        hallucinated: Patch features of the missing modality, or None.
        kept: Inspected pixels of each view, bool `[views, size, size]`; None without an inspection mask.
        joined: Patch features that are made of those of all main modalities, or None; not with `hallucinated`.

    Attributes:
        input_names: Names of the inputs, in the order of `forward`.
        grids: Side of the grid of patches of each bank.
        scorers: Scorer of each bank, and a further one of residuals if the recipe has a residual map.
        score_weights: Weights float32 `[scorers]` of the linear fusion of image scores; 1 until they are set.
        map_weights: Weights float32 `[scorers]` of the linear fusion of maps; 1 until they are set.
    """

    score_weights: Tensor
    map_weights: Tensor

    def __init__(
        self,
        recipe: Recipe,
        features: list[PatchFeatures],
        banks: list[MemoryBank],
        hallucinated: Hallucinated | None = None,
        kept: Tensor | None = None,
        joined: JoinedFeatures | None = None,
    ) -> None:
        super().__init__()
        part = bank_part(recipe)
        self._recipe, self._kept = recipe, kept
        self.published_blur = part.mode == "faithful"
        self.features = nn.ModuleList(features)
        self.hallucinated, self.joined = hallucinated, joined
        self._fed = [input_names(recipe, modality) for modality in recipe.mains]
        self._shown = image_name(recipe, recipe.mains[0]) if part.hallucination == "i2f" else None
        self.input_names = list(dict.fromkeys([*(n for fed in self._fed for n in fed), *filter(None, [self._shown])]))
        shown = [(fed[0], f) for fed, f in zip(self._fed, features, strict=True)]
        whole = joined is not None and joined.reads_every_cell
        self.searched_grids = {f"{name}{SUFFIX}": f.grid for name, f in shown if f.cut_out and not whole}
        further = [hallucinated.grid] if hallucinated else [joined.grid] if joined else []
        self.grids = ([f.grid for f in features] + further)[: len(banks)]
        self.scorers = nn.ModuleList(self.scorer(i, bank) for i, bank in enumerate(banks))
        if hallucinated is not None and hallucinated.compared.inverse is not None:
            mask = None if kept is None else kept[0]
            self.scorers.append(ResidualScorer(grid=self.grids[0], size=recipe.size, kept=mask))
        self.register_buffer("score_weights", torch.ones(len(self.scorers)))
        self.register_buffer("map_weights", torch.ones(len(self.scorers)))
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image score float32 `[1]` and the anomaly map float32 `[size, size]` of one sample.

        With a separate view for each modality the map is `[maps, size, size]`: weighted maps that add up.
        """
        score, anomaly_map = self.fuse(*self.score_each(self.patches(*inputs)))
        return score.reshape(1), anomaly_map

    def forward_each(self, samples: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return score and map of each sample; image extractors run once, everything after them sample by sample."""
        shown = [[self._named(inputs)[fed[0]] for inputs in samples] for fed in self._fed]
        features = [module for module in self.features if isinstance(module, PatchFeatures)]
        tokens = [module.tokens_of_each(images) for module, images in zip(features, shown, strict=True)]
        pairs = zip(samples, zip(*tokens, strict=True), strict=True)
        fused = [self.fuse(*self.score_each(self.patches(*inputs, tokens=own))) for inputs, own in pairs]
        return [(score.reshape(1), anomaly_map) for score, anomaly_map in fused]

    def patches(self, *inputs: Tensor, tokens: Sequence[Tensor | None] | None = None) -> list[Patches]:
        """Return the features that each scorer compares: of each main modality, then hallucinated or joined ones.

        Args:
            inputs: Network inputs, and optionally after them the cells to search for each of `searched_grids`.
            tokens: Features of the image of each main modality, see `PatchFeatures.tokens_of_each`; None to run the
                extractors.
        """
        named = self._named(inputs)
        patches: list[Patches] = [
            features(*(named[name] for name in fed), searched=named.get(f"{fed[0]}{SUFFIX}"), tokens=own)
            for features, fed, own in zip(self.features, self._fed, tokens or [None] * len(self._fed), strict=True)
        ]
        if self.hallucinated is not None:
            image = None if self._shown is None else self._main.image(named[self._shown])
            searched = named.get(f"{self._fed[0][0]}{SUFFIX}")
            patches = self.hallucinated.patches(patches[0], image, searched)
        if self.joined is not None:
            patches.append(self.joined(patches))
        return patches

    def _named(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return inputs by name, and the lists of searched cells as far as they are among them."""
        return dict(zip([*self.input_names, *self.searched_grids], inputs, strict=False))

    @property
    def _main(self) -> PatchFeatures:
        main = self.features[0]
        assert isinstance(main, PatchFeatures)
        return main

    def fuse(self, scores: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return score `[]` and map (see `forward`) of unfused scores `[scorers]` and maps `[scorers, size, size]`."""
        weighted = self.map_weights[:, None, None] * maps
        return (self.score_weights * scores).sum(), weighted.sum(0) if self._recipe.view != "each" else weighted

    @property
    def searches(self) -> list[BankSearch]:
        """Return the search of each bank, main bank first. Proven searches have been replaced by then."""
        return [_unproven(scorer) for scorer in self._bank_scorers]

    def against(self, banks: list[MemoryBank]) -> Detector:
        """Return this detector with other banks and unit fusion weights. Networks are shared."""
        features = [features for features in self.features if isinstance(features, PatchFeatures)]
        other = Detector(self._recipe, features, banks, self.hallucinated, self._kept, self.joined)
        other.verdict = self.verdict
        other.set_factors(self.factors)
        return other

    @property
    def has_residuals(self) -> bool:
        """Return True if the last scorer is that of residuals."""
        return isinstance(self.scorers[-1], ResidualScorer)

    def set_factors(self, factors: Sequence[Tensor | None]) -> None:
        """Set the factors float32 `[grid²]` of the relative distances of each bank; None keeps plain distances."""
        for scorer, of_bank in zip(self._bank_scorers, factors, strict=True):
            scorer.factors = of_bank

    @property
    def factors(self) -> list[Tensor | None]:
        """Return the factors of each bank, see `set_factors`."""
        return [scorer.factors for scorer in self._bank_scorers]

    @property
    def _bank_scorers(self) -> list[BankScorer]:
        return [scorer for scorer in self.scorers if isinstance(scorer, BankScorer)]

    def scorer(self, number: int, bank: MemoryBank) -> BankScorer:
        """Return a scorer of the features of bank `number` against a bank."""
        kept = self._kept
        return BankScorer(
            bank,
            grid=self.grids[number],
            size=self._recipe.size,
            published_blur=self.published_blur,
            image_score=bank_part(self._recipe).image_score,
            kept=None if kept is None else kept[min(number, len(kept) - 1)],
        )

    def set_search(self, settings: SearchSettings) -> None:
        """Search every bank with these settings, in place."""
        for scorer, search in zip(self._bank_scorers, self.searches, strict=True):
            scorer.search = search_by(search.rows + search.center, settings)

    def precision_parts(self) -> PrecisionParts:
        """Return the submodules that a reduced precision may change."""
        return precision_parts(self)

    def halve_stored_data(self, *, products: bool) -> None:
        """Convert the banks to fp16 in place, with or without their products; see `BankSearch.to_half`.

        A search in fp16 proves nothing.
        """
        for scorer, search in zip(self._bank_scorers, self.searches, strict=True):
            scorer.search = search.to_half() if products else search.to_half_rows()

    def score_each(self, patches: list[Patches]) -> tuple[Tensor, Tensor]:
        """Return the unfused scores `[scorers]` and maps `[scorers, size, size]` of what `patches` returns."""
        scored = [scorer(*rows_and_cells) for scorer, rows_and_cells in zip(self.scorers, patches, strict=True)]
        return torch.stack([score for score, _ in scored]), torch.stack([m for _, m in scored])


def _unproven(scorer: BankScorer) -> BankSearch:
    search = scorer.search
    assert isinstance(search, BankSearch)
    return search
