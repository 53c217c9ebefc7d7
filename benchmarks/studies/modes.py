"""Measure the effect of each difference between the two modes on a data set, one at a time from the default mode.

Features are extracted once. Each row of the table changes one item of `docs/modes.md`, builds the banks again and
scores the test split. `python -m studies modes DATA CATEGORY RGB_WEIGHTS --json FILE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmdiad_runtime.names import MODALITIES, Modality
from cmdiad_runtime.preprocess.prepare import prepare, prepare_ground_truth
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.datasets import SampleFiles, Split, open_category
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.features.patches import PatchFeatures
from cmdiad_train.detectors.bank.fitting.banks import bank_rows
from cmdiad_train.detectors.bank.fitting.coreset import greedy_coreset, project
from cmdiad_train.detectors.bank.fusion import ocsvm_weights, standardised_weights
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.preprocessing import make_preprocessing
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.evaluation.evaluate import summarise
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.recipe import BankRecipe, Mode, Recipe, RgbExtractor, XyzExtractor, bank_part

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FIGURES = ("image_auroc", "pixel_auroc", "aupro_30")
CORESET = 0.1  # of the rows


@dataclass(frozen=True)
class Change:
    """One row of the table: the difference from the default mode.

    Attributes:
        name: Name as in docs/modes.md.
        banks: Modalities whose banks are searched.
        rows: "distinct" or "every cell".
        half: Compute the coreset's distances in float16.
        published_blur: Use the 8-bit blur.
        shared: Use one mean (of xyz) and one deviation (of rgb) for all banks.
        fusion: "standardised", or "ocsvm", which is fitted on the training samples.
        mask: Mask the image with the cloud.
        pad: The side of the padded square is a multiple of this number.
        normalisation: BatchNorm statistics of the point encoder.
    """

    name: str
    banks: tuple[Modality, ...] = ("xyz", "rgb")
    rows: str = "distinct"
    half: bool = False
    published_blur: bool = False
    shared: bool = False
    fusion: str = "standardised"
    mask: bool = False
    pad: int = 1
    normalisation: str = "frozen"


def changes() -> list[Change]:
    """Return the default mode, each published behaviour alone, and all of them together."""
    published: dict[str, Any] = {
        "rows": "every cell",
        "half": True,
        "published_blur": True,
        "shared": True,
        "fusion": "ocsvm",
        "mask": True,
        "pad": 100,
        "normalisation": "batch",
    }
    alone = [replace(Change(f"{key}: {value}"), **{key: value}) for key, value in published.items()]
    rows = [Change("default"), *alone, replace(Change("all published"), **published)]
    return [replace(row, banks=banks) for banks in (("rgb",), ("xyz",), ("xyz", "rgb")) for row in rows]


def applies(change: Change) -> bool:
    """Return True if a change can alter the scores of its banks; fusion, for example, needs two banks."""
    single = len(change.banks) == 1
    if change.name.startswith(("shared", "fusion")):
        return not single
    if change.name.startswith("mask"):
        return "rgb" in change.banks
    if change.name.startswith("normalisation"):
        return "xyz" in change.banks
    return True


class Features:
    """Patch features of every sample under each preprocessing that a change requires, computed once."""

    def __init__(self, data: Path, category: str, rgb: RgbExtractor, seed: int) -> None:
        self.category = open_category(data, category)
        self.recipe = Recipe(BankRecipe(rgb=rgb, xyz=XyzExtractor()), size=224, view="sensor", seed=seed)
        self.part = bank_part(self.recipe)
        self.samples = {split: self.category.split(split, MODALITIES) for split in SPLITS}
        self.reporter = TerminalReporter()
        self._known: dict[tuple[Any, ...], list[Patches]] = {}

    def of(self, change: Change, modality: Modality, split: Split) -> list[Patches]:
        """Return the patch features of a split."""
        key = (modality, split, change.pad, change.mask if modality == "rgb" else change.normalisation)
        if key not in self._known:
            self._known[key] = self._extract(change, modality, split)
        return self._known[key]

    @torch.no_grad()
    def _extract(self, change: Change, modality: Modality, split: Split) -> list[Patches]:
        recipe = replace(self.recipe, rgb_mask="cloud" if change.mask else "none")
        preprocessing = replace(make_preprocessing(recipe, "rgb", modality), pad_multiple=change.pad)

        def inputs(files: SampleFiles) -> dict[str, Tensor]:
            return as_tensors(prepare(files.read("rgb"), preprocessing).inputs)

        features = PatchFeatures(self._extractor(change, modality, inputs))
        patches = []
        for i, files in enumerate(self.samples[split]):
            patches.append(features(*inputs(files).values()))
            self.reporter.step(f"{modality} features, {split}", i + 1, len(self.samples[split]))
        return patches

    def _extractor(
        self, change: Change, modality: Modality, inputs: Callable[[SampleFiles], dict[str, Tensor]]
    ) -> TimmBackbone | PointMae:
        if modality == "rgb":
            return TimmBackbone(self.part.rgb, size=self.recipe.size, seed=self.recipe.seed)
        assert self.part.points is not None
        spec = replace(self.part.points, normalisation=change.normalisation)  # type: ignore[arg-type]
        extractor = PointMae(spec, seed=self.recipe.seed)
        if spec.normalisation == "frozen":
            chosen = self.samples["train"][:: max(1, len(self.samples["train"]) // 16)][:16]
            extractor.calibrate([inputs(files)["groups"][0] for files in chosen])
        return extractor

    def masks(self, pad: int) -> np.ndarray:
        """Return the ground truth, bool `[test samples, size, size]`."""
        preprocessing = replace(make_preprocessing(self.recipe, "rgb"), pad_multiple=pad)
        masks = []
        for files in self.samples["test"]:
            image = files.read("rgb").rgb
            assert image is not None
            masks.append(prepare_ground_truth(files.read_mask(image.shape[:2]), preprocessing))
        return np.stack(masks)


@torch.no_grad()
def figures(features: Features, change: Change) -> dict[str, Any]:
    """Return image AUROC, pixel AUROC and AUPRO on the test split under a change."""
    mode: Mode = "faithful" if change.rows == "every cell" else "default"
    recipe = replace(features.recipe, detector=replace(features.part, mode=mode))
    shared = None
    if change.shared:
        mean = float(bank_rows(features.of(change, "xyz", "train"), recipe).mean())
        shared = (mean, float(bank_rows(features.of(change, "rgb", "train"), recipe).std()))
    scorers = [_scorer(features, change, modality, recipe, shared) for modality in change.banks]

    def columns(split: Split) -> tuple[np.ndarray, np.ndarray]:
        scores, maps = [], []
        for modality, scorer in zip(change.banks, scorers, strict=True):
            outcomes = [scorer(*patches) for patches in features.of(change, modality, split)]
            scores.append(torch.stack([s for s, _ in outcomes]).numpy())
            maps.append(torch.stack([m for _, m in outcomes]).numpy())
        return np.stack(scores, 1), np.stack(maps, -1)

    fitted_scores, fitted_maps = columns("train" if change.fusion == "ocsvm" else "validation")
    weigh = ocsvm_weights if change.fusion == "ocsvm" else standardised_weights
    scores, maps = columns("test")
    defects = np.array([files.defect for files in features.samples["test"]])
    summary = summarise(
        defects,
        scores @ weigh(fitted_scores),
        features.masks(change.pad),
        (maps @ weigh(fitted_maps.reshape(-1, len(scorers)))).astype(np.float32),
    )
    return {key: summary[key] for key in FIGURES}


def _scorer(
    features: Features, change: Change, modality: Modality, recipe: Recipe, shared: tuple[float, float] | None
) -> BankScorer:
    rows = bank_rows(features.of(change, modality, "train"), recipe)
    mean, std = shared or (float(rows.mean()), float(rows.std()))
    rows = (rows - mean) / std
    count = max(3, int(CORESET * len(rows)))
    chosen = greedy_coreset(
        project(rows, eps=features.part.coreset_eps, seed=recipe.seed),
        count,
        half=change.half,
        progress=lambda done, total: features.reporter.step(f"{change.name}, {modality} bank", done, total),
    )
    bank = MemoryBank.from_rows(rows[torch.from_numpy(chosen)].contiguous(), mean, std)
    grid = round(len(features.of(change, modality, "train")[0][1]) ** 0.5)
    return BankScorer(bank, grid=grid, size=recipe.size, published_blur=change.published_blur)


def measure_modes(data: Path, category: str, rgb_weights: str, seed: int, json_file: Path) -> list[dict[str, Any]]:
    """Measure every change and write the rows to `json_file` after each of them.

    Args:
        data: Data set.
        category: Category of the data set.
        rgb_weights: ImageNet weights of `resnetv2_50`.
        seed: Seed of projections and random weights.
        json_file: File for the figures.

    Returns:
        Banks, change, image AUROC, pixel AUROC and AUPRO of each row.
    """
    features = Features(data, category, RgbExtractor("resnetv2_50", (1, 2), 28, rgb_weights), seed)
    rows = []
    for change in filter(applies, changes()):
        rows.append({"banks": "+".join(change.banks), "change": change.name, **figures(features, change)})
        write_json(json_file, {"category": category, "seed": seed, "rows": rows})
    features.reporter.close()
    return rows


def modes_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of `measure_modes` as a Markdown table."""
    lines = ["| banks | change | image AUROC | pixel AUROC | AUPRO@30 % |", "|---|---|---|---|---|"]
    for row in rows:
        cells = " | ".join(f"{row[key]:.3f}" for key in FIGURES)
        lines.append(f"| {row['banks']} | {row['change']} | {cells} |")
    return "\n".join(lines) + "\n"
