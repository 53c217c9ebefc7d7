"""The recipe part of M3DM: the banks of two modalities, and a third one of fused features."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from cmdiad_train.recipe.bank import PUBLISHED_BANK, BankRecipe
from cmdiad_train.recipe.extractors import XyzExtractor
from cmdiad_train.recipe.rules import require, require_inside, require_one, require_whole

if TYPE_CHECKING:
    from cmdiad_train.recipe.recipe import Recipe

FeatureFusion = Literal["uff", "none"]
Pairing = Literal["aligned", "published"]

_MOST_STEPS = 1 << 31
_MOST_ROWS = 1 << 20
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class M3dmRecipe(BankRecipe):
    """Part of a recipe: the fields of a memory bank detector without hallucination, and the fusion of features.

    Attributes:
        feature_fusion: "uff" (a third bank of features that the fusion network makes of both modalities) or "none"
            (two banks).
        pairing: Rows that train the fusion network as pairs: "aligned" (image and cloud of the same cell) or
            "published" (the order of the published export, which pairs a cell with another place; mode faithful only).
        temperature: Temperature of the contrastive loss; 1 as published.
        rows: Largest number of cells per training step. All other cells of the step are negatives of a cell, so
            time and memory grow with the square. None takes all cells, as published.
        expansion: Hidden width of the fusion network as a multiple of the width of its input; 4 as published.
        epochs: Passes over the training samples.
        batch: Samples per step.
        learning_rate: Largest rate of AdamW, after a warm-up of a third of the epochs.
        patience: Epochs without a smaller validation loss after which training stops and the best epoch is taken. A
            tenth of the training samples validates. 0, as published, trains on all and takes the last epoch.
    """

    feature_fusion: FeatureFusion = "uff"
    pairing: Pairing = "aligned"
    temperature: float = 1.0
    rows: int | None = 1024
    expansion: float = 4.0
    epochs: int = 30
    batch: int = 8
    learning_rate: float = 3e-3
    patience: int = 10

    family: ClassVar[str] = "m3dm"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one("feature_fusion", self.feature_fusion, ("uff", "none"))
        require_one("pairing", self.pairing, ("aligned", "published"))
        for name, low in (("epochs", 1), ("batch", 1), ("patience", 0)):
            require_whole(name, getattr(self, name), low, _MOST_STEPS)
        for name in ("temperature", "expansion", "learning_rate"):
            require_inside(name, getattr(self, name), "a positive number", high=_LARGEST)
        if self.rows is not None:
            require_whole("rows", self.rows, 2, _MOST_ROWS)
        is_possible = self.pairing == "aligned" or self.mode == "faithful"
        require(is_possible, "pairing", self.pairing, "aligned, unless the mode is faithful")
        is_possible = self.mode == "default" or self.fusion == "ocsvm"
        require(is_possible, "fusion", self.fusion, "ocsvm in the mode faithful, as published")
        require(self.hallucination == "none", "hallucination", self.hallucination, "none in the family m3dm")
        require(self.paper is None, "paper", self.paper, "none in the family m3dm")
        require(self.distances == "plain", "distances", self.distances, "plain in the family m3dm")

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if this part contradicts the common fields of a recipe."""
        super().check(recipe)
        require(
            recipe.modality == "both" or self.feature_fusion == "uff",
            "modality",
            recipe.modality,
            "both without a fusion network; for banks of one sensor choose the family bank",
        )
        require(
            recipe.modality == "both" or self.mode == "default",
            "modality",
            recipe.modality,
            "both in the mode faithful, because the published program always measures both",
        )
        require(
            recipe.image_modality == "rgb",
            "modality",
            recipe.modality_name,
            "both, rgb or xyz; the fusion network learns from images of the kind rgb and clouds",
        )
        require(
            recipe.view != "each",
            "view",
            recipe.view,
            "sensor, top or part: features of image and cloud are fused cell by cell, so both must show the same view",
        )


def m3dm_part(recipe: Recipe) -> M3dmRecipe:
    """Return the M3DM part of a recipe; TypeError for a recipe of another family."""
    if not isinstance(recipe.detector, M3dmRecipe):
        raise TypeError(f"a recipe of the family {recipe.family}, not of M3DM")
    return recipe.detector


def with_three_taps(points: XyzExtractor) -> XyzExtractor:
    """Return the extractor with features of the blocks at each third of its depth: 3, 7 and 11 of twelve."""
    return replace(points, taps=tuple(sorted({max(0, third * points.depth // 3 - 1) for third in (1, 2, 3)})))


def _published() -> M3dmRecipe:
    bank = PUBLISHED_BANK
    assert bank.points is not None
    return M3dmRecipe(
        mode="faithful",
        rgb=bank.rgb,
        xyz=with_three_taps(bank.points),
        coreset=bank.coreset,
        components=None,
        image_score=bank.image_score,
        fusion=bank.fusion,
        rows=None,
        epochs=3,
        batch=16,
        patience=0,
    )


PUBLISHED_M3DM = _published()
