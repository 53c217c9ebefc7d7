"""Training, from paired samples to a run directory. Every step leaves a whole file, so that it can go on."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmdiad_runtime.bundle import Calibration
from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.files import atomic_write, sha256_of
from cmdiad_runtime.preprocess.prepare import Preprocessing, needed_modalities, prepare
from cmdiad_runtime.sample import Modality, Sample
from cmdiad_train import run_directory as directory
from cmdiad_train.coreset import greedy_coreset, project
from cmdiad_train.dataset import SampleFiles, data_colour, find_category, list_split
from cmdiad_train.detector import (
    Detector,
    Extractor,
    PatchFeatures,
    as_tensors,
    hallucination_grid,
    regrid,
    repeated_cells,
)
from cmdiad_train.distillation import Pairs, distil, new_network
from cmdiad_train.evaluate import evaluate
from cmdiad_train.extractors import PointMae
from cmdiad_train.fusion import PUBLISHED_LAMBDAS, ocsvm_weights, standardised_weights
from cmdiad_train.hallucination import FeatureToFeature
from cmdiad_train.memory_bank import MemoryBank
from cmdiad_train.recipe import Recipe
from cmdiad_train.tamper import tamper
from cmdiad_train.threshold import calibrate_threshold

Report = Callable[[str, int, int], None]
"""Called as `report(step, done, total)`."""

Patches = tuple[Tensor, Tensor]
"""Rows float32 `[R, C]` and cells int64 `[grid²]` of one sample: cell i has features `rows[cells[i]]`."""

GOLDEN_SAMPLES = 4
CALIBRATION_CLOUDS = 16
HELD_OUT_SHARE = 5  # without a validation split every fifth training sample is held out


@dataclass(frozen=True)
class _Data:
    """The samples of one category, split."""

    train: list[SampleFiles]
    held_out: list[SampleFiles]
    test: list[SampleFiles]


def fit(data: Path, category: str | None, recipe: Recipe, run: Path, report: Report) -> dict[str, Any]:
    """Train a detector on `data/category` into the folder `run`, or go on with an interrupted training there.

    Args:
        data: a data set in MVTec 3D-AD layout.
        category: which of its categories; None where there is one.
        recipe: what to train.
        run: new folder, or that of an unfinished training with the same recipe and data.
        report: told of the progress.

    Returns:
        The run's record (`run.json`).

    Raises:
        RunError: data or recipe cannot be used. InputError: a training sample cannot be read.
        OutputError: `run` holds something else.
    """
    folder, name = find_category(data, category)
    samples = _split(folder, recipe)
    record = _start(run, folder, name, recipe, samples)
    if record["status"] == "complete":
        return record
    fitting = _Fitting(run, recipe, Preprocessing(**record["preprocessing"]), samples, report)
    detector = fitting.detector()
    record["provenance"] = fitting.provenance
    record["metrics"] = fitting.metrics(detector) if _is_labelled(samples.test) else None
    directory.write_record(run, {**record, "status": "complete"})
    shutil.rmtree(run / "cache", ignore_errors=True)
    (run / "distillation.checkpoint.safetensors").unlink(missing_ok=True)
    return directory.read_record(run)


def _is_labelled(test: list[SampleFiles]) -> bool:
    """Whether a test split holds both good samples and defects, without which there is no figure."""
    return len({files.defect == "good" for files in test}) == 2


def _split(folder: Path, recipe: Recipe) -> _Data:
    main = needed_modalities(recipe.modality, recipe.rgb_mask)
    train = list_split(folder, "train", main if recipe.hallucination == "none" else ("rgb", "xyz"))
    held_out = list_split(folder, "validation", main)
    if len(held_out) < 2:
        held_out, train = train[::HELD_OUT_SHARE], [s for i, s in enumerate(train) if i % HELD_OUT_SHARE]
    if len(train) < 2 or len(held_out) < 2:
        raise RunError(
            folder,
            found=f"{len(train)} training and {len(held_out)} held-out samples",
            expected="at least 2 of each (train/good, validation/good)",
            action="add good samples",
        )
    return _Data(train, held_out, list_split(folder, "test", main))


def _start(run: Path, folder: Path, category: str, recipe: Recipe, samples: _Data) -> dict[str, Any]:
    """The record of a new run, or of the one to go on with."""
    wanted = {
        "recipe": recipe.to_json(),
        "data": {
            "folder": str(folder.resolve()),
            "category": category,
            "train": [s.name for s in samples.train],
            "held_out": [s.name for s in samples.held_out],
        },
    }
    if (run / "run.json").exists():
        record = directory.read_record(run)
        if {k: record.get(k) for k in wanted} != json.loads(json.dumps(wanted)):  # tuples are lists in JSON
            raise OutputError(
                run,
                found="a run with another recipe or other data",
                expected="a new folder, or the same training to go on with",
                action="choose another --out",
            )
        return record
    # Hidden files are what a killed process left of its first write.
    if run.exists() and (not run.is_dir() or any(not p.name.startswith(".") for p in run.iterdir())):
        raise OutputError(run, found="something else", expected="a new folder", action="choose another --out")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            run, found=str(error.strerror), expected="a writable folder", action="choose another --out"
        ) from error
    preprocessing = make_preprocessing(recipe, data_colour(samples.train))
    record = {
        **wanted,
        "status": "fitting",
        "seed": recipe.seed,
        "preprocessing": preprocessing.to_json(),
        "versions": {p: version(p) for p in ("cmdiad", "torch", "timm", "scikit-learn", "numpy", "scipy")},
        "python": platform.python_version(),
    }
    directory.write_record(run, record)
    return record


def make_preprocessing(recipe: Recipe, colour: Any, modality: Modality | None = None) -> Preprocessing:
    """The preprocessing of a modality (default: the main one) under a recipe."""
    return Preprocessing(
        modality=modality or recipe.modality,
        size=recipe.size,
        pad_multiple=100 if recipe.mode == "faithful" else 1,
        colour=colour,
        rgb_mask=recipe.rgb_mask,
        foreground=recipe.foreground,
        groups=recipe.xyz.groups,
        group_size=recipe.xyz.group_size,
        grid=recipe.xyz.grid,
        seed=recipe.seed,
    )


class _Fitting:
    """One training; each step loads what an earlier attempt has finished."""

    def __init__(self, run: Path, recipe: Recipe, preprocessing: Preprocessing, samples: _Data, report: Report) -> None:
        self.run, self.recipe, self.preprocessing = run, recipe, preprocessing
        self.samples, self.report = samples, report
        self.provenance: dict[str, Any] = {}

    def detector(self) -> Detector:
        """All steps, in order."""
        extractor = self._extractor(self.recipe.modality)
        patches = self._patches(extractor, self.recipe.modality)
        network = None
        if self.recipe.hallucination == "f2f":
            network = self._network(extractor, patches)
        banks = self._banks(patches, network, extractor.grid)
        return self._calibrated(PatchFeatures(extractor), banks, network, patches)

    def metrics(self, detector: Detector) -> dict[str, Any]:
        """Figures of the detector on the test split."""

        @torch.no_grad()
        def score(sample: Sample) -> tuple[float, Any]:
            result, anomaly_map = detector(*as_tensors(prepare(sample, self.preprocessing).inputs).values())
            return float(result), anomaly_map.numpy()

        return evaluate(score, self.preprocessing, self.samples.test, self.report)

    def _extractor(self, modality: Modality) -> Extractor:
        if (self.run / f"extractor-{modality}.safetensors").exists():
            extractor = directory.load_extractor(self.run, self.recipe, modality)
        else:
            extractor = directory.build_extractor(self.recipe, modality)
            if modality == "xyz" and self.recipe.xyz.normalisation == "frozen":
                self._calibrate(extractor)
            directory.save_extractor(self.run, extractor, modality)
        weights = self.recipe.rgb.weights if modality == "rgb" else self.recipe.xyz.weights
        self.provenance[modality] = {"extractor": extractor.provenance}
        if weights not in ("seeded", "timm"):
            self.provenance[modality]["weights_sha256"] = sha256_of(weights)
        return extractor

    def _calibrate(self, extractor: Extractor) -> None:
        step = max(1, len(self.samples.train) // CALIBRATION_CLOUDS)
        chosen = self.samples.train[::step][:CALIBRATION_CLOUDS]
        clouds = []
        for i, files in enumerate(chosen):
            clouds.append(self._inputs(files, "xyz")["groups"][0])
            self.report("calibrate point encoder", i + 1, len(chosen))
        assert isinstance(extractor, PointMae)
        extractor.calibrate(clouds)

    def _inputs(self, files: SampleFiles, modality: Modality) -> dict[str, Tensor]:
        preprocessing = make_preprocessing(self.recipe, self.preprocessing.colour, modality)
        return as_tensors(prepare(files.read(self.preprocessing.colour), preprocessing).inputs)

    @torch.no_grad()
    def _patches(self, extractor: Extractor, modality: Modality) -> list[Patches]:
        """Patch features of every training sample, each kept on disk until the run is complete."""
        features = PatchFeatures(extractor)
        cache = self.run / "cache" / modality
        cache.mkdir(parents=True, exist_ok=True)
        patches = []
        for i, files in enumerate(self.samples.train):
            file = cache / (files.name.replace("/", "-") + ".safetensors")
            if not file.exists():
                inputs = self._inputs(files, modality)
                rows, cells = features(*inputs.values())
                directory.save_tensors(file, {"rows": rows, "cells": cells})
            stored = directory.load_tensors(file)
            patches.append((stored["rows"], stored["cells"]))
            self.report(f"extract {modality} features", i + 1, len(self.samples.train))
        return patches

    def _network(self, extractor: Extractor, patches: list[Patches]) -> FeatureToFeature:
        if (self.run / "hallucination.safetensors").exists():
            self._extractor(self.recipe.other)
            return directory.load_network(self.run, self.recipe)
        other = self._extractor(self.recipe.other)
        targets = self._patches(other, self.recipe.other)
        pairs = make_pairs(patches, extractor.grid, targets, other.grid, self.recipe)
        network = new_network(pairs, self.recipe)
        losses = distil(
            network,
            pairs,
            self.recipe,
            checkpoint=self.run / "distillation.checkpoint.safetensors",
            progress=lambda done, total, loss: self.report(f"distil f2f (loss {loss:.4g})", done, total),
        )
        with atomic_write(self.run / "distillation.csv") as temporary:
            rows = (f"{epoch},{loss:.9g}\n" for epoch, loss in enumerate(losses, 1))
            temporary.write_text("epoch,loss\n" + "".join(rows), encoding="utf-8")
        directory.save_network(self.run, network)
        return directory.load_network(self.run, self.recipe)

    @torch.no_grad()
    def _banks(self, patches: list[Patches], network: FeatureToFeature | None, grid: int) -> list[MemoryBank]:
        if (self.run / "banks.safetensors").exists():
            return directory.load_banks(self.run)
        statistics = self._shared_statistics(patches) if self.recipe.mode == "faithful" and network else None
        banks = [self._bank("main", bank_rows(patches, self.recipe), statistics)]
        if network is not None:
            repeat = repeated_cells(grid, hallucination_grid(self.recipe, grid))
            hallucinated = [(network(rows), cells[repeat]) for rows, cells in patches]
            banks.append(self._bank("fusion", bank_rows(hallucinated, self.recipe), statistics))
        directory.save_banks(self.run, banks)
        return banks

    def _shared_statistics(self, patches: list[Patches]) -> tuple[float, float]:
        """The published single pair: mean of raw xyz patches, deviation of raw rgb patches (§10.1)."""
        other = self._patches(self._extractor(self.recipe.other), self.recipe.other)
        xyz, rgb = (patches, other) if self.recipe.modality == "xyz" else (other, patches)
        return float(bank_rows(xyz, self.recipe).mean()), float(bank_rows(rgb, self.recipe).std())

    def _bank(self, name: str, rows: Tensor, statistics: tuple[float, float] | None) -> MemoryBank:
        mean, std = statistics or (float(rows.mean()), float(rows.std()))
        normalised = (rows - mean) / std
        chosen = choose_rows(
            normalised, self.recipe, lambda done, total: self.report(f"choose {name} bank", done, total)
        )
        return MemoryBank.from_rows(normalised[torch.from_numpy(chosen)].contiguous(), mean, std)

    @torch.no_grad()
    def _calibrated(
        self,
        features: PatchFeatures,
        banks: list[MemoryBank],
        network: FeatureToFeature | None,
        patches: list[Patches],
    ) -> Detector:
        detector = Detector(self.recipe, features, banks, network)
        held_out, golden = self._held_out_patches(features)
        outcomes = []
        for i, sample in enumerate(held_out):
            outcomes.append(detector.score_each(*sample))
            self.report("calibrate threshold", i + 1, len(held_out))
        fitted_on = [detector.score_each(*p) for p in patches] if self.recipe.fusion == "ocsvm" else outcomes
        detector.score_weights = self._fusion_weights(torch.stack([s for s, _ in fitted_on]))
        detector.map_weights = self._fusion_weights(torch.cat([m.flatten(1).T for _, m in fitted_on]))
        fused = [detector.fuse(*outcome) for outcome in outcomes]
        scores, peaks = [float(s) for s, _ in fused], [float(m.max()) for _, m in fused]
        score = calibrate_threshold(scores, self.recipe.false_reject_rate)
        peak = calibrate_threshold(peaks, self.recipe.false_reject_rate)
        calibration = Calibration(
            score.value, peak.value, score.false_reject_rate, score.samples, score.method, score.warning
        )
        directory.save_golden(self.run, golden)
        directory.save_calibration(self.run, calibration, detector.score_weights, detector.map_weights, scores)
        return detector

    def _held_out_patches(self, features: PatchFeatures) -> tuple[list[Patches], dict[str, dict[str, Tensor]]]:
        """Patch features of the held-out samples, and the golden set: some of them and tampered copies."""
        patches, golden = [], {}
        for i, files in enumerate(self.samples.held_out):
            sample = files.read(self.preprocessing.colour)
            inputs = as_tensors(prepare(sample, self.preprocessing).inputs)
            patches.append(features(*inputs.values()))
            if i < GOLDEN_SAMPLES:
                golden[f"{i}-good"] = inputs
                golden[f"{i}-tampered"] = self._tampered_inputs(sample)
            self.report("extract held-out features", i + 1, len(self.samples.held_out))
        return patches, golden

    def _tampered_inputs(self, sample: Sample) -> dict[str, Tensor]:
        return as_tensors(prepare(tamper(sample, self.preprocessing), self.preprocessing).inputs)

    def _fusion_weights(self, columns: Tensor) -> Tensor:
        """Weights float32 `[banks]` fitted on unfused scores or map values `[n, banks]` of good samples."""
        if columns.shape[1] == 1:
            return torch.ones(1)
        values = columns.double().numpy()
        if self.recipe.fusion == "standardised":
            return torch.from_numpy(standardised_weights(values)).float()
        lambdas = np.ones(values.shape[1])
        if self.recipe.mode == "faithful":
            lambdas = np.array([PUBLISHED_LAMBDAS[self.recipe.modality], PUBLISHED_LAMBDAS["fusion"]])
        return torch.from_numpy(lambdas * ocsvm_weights(lambdas * values)).float()


def make_pairs(main: list[Patches], main_grid: int, other: list[Patches], other_grid: int, recipe: Recipe) -> Pairs:
    """Pairs of main and other features, per sample.

    Published: one pair per cell of the finer grid (§5, §9). Default: one pair per distinct row of the main
    modality, its target the mean over the cells that share the row, since equal inputs can only learn one output.
    """
    if recipe.mode == "faithful":
        grid = max(main_grid, other_grid)
        return [
            (regrid(m[mc], main_grid, grid), regrid(o[oc], other_grid, grid))
            for (m, mc), (o, oc) in zip(main, other, strict=True)
        ]
    return [
        _distinct_pairs(rows, cells, regrid(o[oc], other_grid, main_grid))
        for (rows, cells), (o, oc) in zip(main, other, strict=True)
    ]


def _distinct_pairs(rows: Tensor, cells: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    used, position, count = torch.unique(cells, return_inverse=True, return_counts=True)
    total = torch.zeros(len(used), targets.shape[1]).index_add_(0, position, targets)
    return rows[used], total / count[:, None]


def bank_rows(patches: list[Patches], recipe: Recipe) -> Tensor:
    """Candidate rows of a bank `[n, C]`: every cell as published, or every distinct row."""
    if recipe.mode == "faithful":
        return torch.cat([rows[cells] for rows, cells in patches])
    return torch.cat([rows[torch.unique(cells)] for rows, cells in patches])


def choose_rows(rows: Tensor, recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> Any:
    """Indices int64 of the rows that a bank keeps, in order of selection."""
    if recipe.coreset == 1:
        return np.arange(len(rows))
    count = max(3, int(recipe.coreset * len(rows)))
    projected = project(rows, eps=recipe.coreset_eps, seed=recipe.seed)
    return greedy_coreset(projected, count, half=recipe.mode == "faithful", progress=progress)
