"""Training, from paired samples to a run directory. Every step leaves a whole file, so that it can go on."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmdiad_runtime.bundle.threshold import calibrate
from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.preprocess.prepare import Preprocessing, needed_modalities, prepare
from cmdiad_runtime.readers.image import Colour
from cmdiad_runtime.sample import Modality, Sample, Sensors
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.datasets import Category, SampleFiles, data_colour, open_category
from cmdiad_train.detectors.bank.coreset import greedy_coreset, project
from cmdiad_train.detectors.bank.detector import Detector, as_tensors
from cmdiad_train.detectors.bank.distillation import Pair, distil, new_network
from cmdiad_train.detectors.bank.fusion import fusion_weights
from cmdiad_train.detectors.bank.memory_bank import MemoryBank
from cmdiad_train.detectors.bank.patches import (
    Extractor,
    Hallucinated,
    Patches,
    PatchFeatures,
    hallucination_grid,
    image_name,
    input_names,
    regrid,
    shows_part_alone,
)
from cmdiad_train.detectors.bank.projection import principal_directions
from cmdiad_train.evaluation.evaluate import evaluate
from cmdiad_train.extractors import PointMae
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.fit.feature_cache import FeatureCache, Stored
from cmdiad_train.fit.tamper import tamper
from cmdiad_train.fit.views import choose_view, learn_view, recommended_view
from cmdiad_train.recipe import MOST_ROWS, Recipe
from cmdiad_train.runs import run_directory as directory
from cmdiad_train.runs.loss_plot import plot_losses
from cmdiad_train.training.log import write_log

Report = Callable[[str, int, int], None]
"""Called as `report(step, done, total)`."""

GOLDEN_SAMPLES = 4
CALIBRATION_CLOUDS = 16
QUANTISATION_SAMPLES = 4
HELD_OUT_SAMPLES = 24
HELD_OUT_SHARE = 5  # without a validation split every fifth training sample is held out


@dataclass(frozen=True)
class Machine:
    """What a training may use; none of it changes the result but for rounding.

    Attributes:
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        cache_gb: disk space for cached features.
    """

    device: str = "auto"
    cache_gb: float = 50.0

    def torch_device(self) -> torch.device:
        """The device; RunError where CUDA is asked for and absent."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RunError(
                "--device cuda",
                found=f"no CUDA device (torch {torch.__version__})",
                expected="a GPU and a CUDA build of torch",
                action="use --device cpu, or install torch for CUDA",
            )
        cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if cuda else "cpu")


@dataclass(frozen=True)
class _Data:
    """The samples of one category, split, and the training samples of those that the network is trained on too."""

    train: list[SampleFiles]
    held_out: list[SampleFiles]
    test: list[SampleFiles]
    joint: dict[str, list[SampleFiles]]


def fit(
    data: Path,
    category: str | None,
    recipe: Recipe,
    run: Path,
    report: Report,
    *,
    machine: Machine | None = None,
    network_from: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a detector on a category of a data set into the folder `run`, or go on with an interrupted training there.

    Args:
        data: a data set in one of the layouts of `cmdiad_train.datasets`.
        category: which of its categories; None where there is one.
        recipe: what to train.
        run: new folder, or that of an unfinished training with the same recipe and data.
        report: told of the progress.
        machine: device and disk space.
        network_from: a finished run whose extractors and distillation network are taken over, so that a network
            that is joint over categories is trained once.
        say: told in a line where parts are seen otherwise than is best for the recipe.

    Returns:
        The run's record (`run.json`).

    Raises:
        RunError: data or recipe cannot be used. InputError: a training sample cannot be read.
        OutputError: `run` holds something else.
    """
    chosen = open_category(data, category)
    samples = _split(chosen, recipe)
    record = _start(run, chosen, recipe, samples, network_from, report, say)
    if record["status"] == "complete":
        return record
    recipe = Recipe.from_json(record["recipe"])
    if network_from is not None:
        _take_over(network_from, run, recipe)
    fitting = _Fitting(
        run, recipe, Preprocessing.from_json(record["preprocessing"]), samples, report, machine or Machine()
    )
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


def _split(category: Category, recipe: Recipe) -> _Data:
    main = needed_modalities(recipe.modality, recipe.rgb_mask)
    trained: tuple[Modality, ...] = main if recipe.hallucination == "none" else ("rgb", "xyz")
    train = category.split("train", trained)
    held_out = category.split("validation", main)
    if len(held_out) < 2:
        held_out, train = train[::HELD_OUT_SHARE], [s for i, s in enumerate(train) if i % HELD_OUT_SHARE]
    if len(train) < 2 or len(held_out) < 2:
        raise RunError(
            category.folder,
            found=f"{len(train)} training and {len(held_out)} held-out samples",
            expected="at least 2 of each (train/good, validation/good)",
            action="add good samples",
        )
    others = [name for name in recipe.distillation.categories if name != category.name]
    joint = {name: open_category(category.root, name).split("train", trained) for name in others}
    return _Data(train, held_out, category.split("test", main), joint)


def _start(
    run: Path,
    category: Category,
    recipe: Recipe,
    samples: _Data,
    network_from: Path | None,
    report: Report,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The record of a new run, or of the one to go on with. Its recipe names the view that was chosen."""
    network = None if network_from is None else sha256_of(_network_file(network_from))
    wanted = {
        "recipe": recipe.to_json(),
        "network_from": network,
        "data": {
            "folder": str(category.folder.resolve()),
            "category": category.name,
            "train": [s.name for s in samples.train],
            "held_out": [s.name for s in samples.held_out],
        },
    }
    if (run / "run.json").exists():
        record = directory.read_record(run)
        asked = Recipe.from_json({**record["recipe"], "view": record["view"]["asked"]}).to_json()
        if json.loads(json.dumps({k: {**record, "recipe": asked}.get(k) for k in wanted})) != json.loads(
            json.dumps(wanted)
        ):  # tuples are lists in JSON
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
    others = [*samples.held_out, *(files for joint in samples.joint.values() for files in joint)]
    chosen = choose_view(samples.train, others, recipe, preprocessing, recommended_view(recipe), _StepsTo(report))
    if chosen.reason:
        say(f"parts are seen as the sensor sees them (--view sensor): {chosen.reason}")
    record = {
        **wanted,
        "recipe": replace(recipe, view=chosen.view).to_json(),
        "view": {"asked": recipe.view, "because": chosen.reason},
        "status": "fitting",
        "seed": recipe.seed,
        "preprocessing": chosen.preprocessing.to_json(),
        "versions": {p: version(p) for p in ("cmdiad", "torch", "timm", "scikit-learn", "numpy", "scipy")},
        "python": platform.python_version(),
    }
    directory.write_record(run, record)
    return record


def _network_file(run: Path) -> Path:
    file = run / "hallucination.safetensors"
    if not file.is_file():
        raise RunError(
            run, found="no distillation network", expected="a finished run with one", action="check --network-from"
        )
    return file


def _take_over(source: Path, run: Path, recipe: Recipe) -> None:
    """Copy extractors and distillation network of a finished run; RunError where its recipe trains others."""
    theirs = Recipe.from_json(directory.read_record(source)["recipe"])
    for name in (
        "mode",
        "modality",
        "hallucination",
        "rgb",
        "xyz",
        "components",
        "distillation",
        "size",
        "rgb_mask",
        "foreground",
    ):
        if getattr(theirs, name) != getattr(recipe, name):
            raise RunError(
                source,
                found=f"a network trained with another {name}",
                expected="one trained with the options of this run",
                action="give the same options, or train a network of its own",
            )
    for name in ("extractor-rgb", "extractor-xyz", "projection-rgb", "projection-xyz", "hallucination"):
        if (source / f"{name}.safetensors").exists() and not (run / f"{name}.safetensors").exists():
            directory.save_tensors(
                run / f"{name}.safetensors",
                directory.load_tensors(source / f"{name}.safetensors"),
                directory.load_metadata(source / f"{name}.safetensors") or None,
            )


def make_preprocessing(recipe: Recipe, colour: Colour, modality: Sensors | None = None) -> Preprocessing:
    """The preprocessing of a modality (default: what inspection needs) under a recipe."""
    points = recipe.points
    shown = {"i2f": recipe.mains[0], "f2i": recipe.other}.get(recipe.hallucination)
    asked = modality or recipe.modality
    return Preprocessing(
        modality=asked,
        size=recipe.size,
        pad_multiple=100 if recipe.mode == "faithful" else 1,
        colour=colour,
        rgb_mask=recipe.rgb_mask,
        foreground=recipe.foreground,
        groups=points.groups if points else 0,
        group_size=points.group_size if points else 0,
        grid=points.grid if points else 0,
        xyz_feed="points" if points else recipe.xyz.image,  # type: ignore[union-attr]  # then it is a SurfaceExtractor
        xyz_image=points is not None and shown == asked == "xyz",
        seed=recipe.seed,
    )


class _StepsTo:
    """A reporter that passes steps to a function, until `fit` takes a reporter itself."""

    def __init__(self, report: Report) -> None:
        self.step = report

    def say(self, line: str) -> None:
        """Discard a line; training says nothing."""


class _Pairs:
    """What a distillation network learns from, read from the cache sample by sample; see `distillation.Pairs`."""

    def __init__(self, main: Sequence[Stored], other: Sequence[Stored], grids: tuple[int, int], recipe: Recipe) -> None:
        self.main, self.other, self.grids, self.recipe = main, other, grids, recipe

    def __len__(self) -> int:
        return len(self.main)

    def __getitem__(self, index: int) -> Pair:
        return make_pair(self.main[index], self.other[index], self.grids, self.recipe)


class _Fitting:
    """One training; each step loads what an earlier attempt has finished."""

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        preprocessing: Preprocessing,
        samples: _Data,
        report: Report,
        machine: Machine,
    ) -> None:
        self.run, self.recipe, self.preprocessing = run, recipe, preprocessing
        self.samples, self.report = samples, report
        self.device = machine.torch_device()
        self.cache = FeatureCache(run / "cache", budget=int(machine.cache_gb * 1e9))
        self.preprocessings: dict[str, Preprocessing] = {}
        self.provenance: dict[str, Any] = {}

    def detector(self) -> Detector:
        """All steps, in order."""
        mains = {modality: self._patch_features(modality) for modality in self.recipe.mains}
        stored = [self._stored(features, modality) for modality, features in mains.items()]
        hallucinated = self._hallucinated(next(iter(mains.values())), stored[0])
        patches = [[(s["rows"], s["cells"]) for s in each] for each in stored]
        if hallucinated is not None:
            patches.append(self._hallucinate(hallucinated, stored[0]))
        banks = self._banks(patches)
        detector = Detector(self.recipe, list(mains.values()), banks, hallucinated)
        return self._calibrated(detector, banks, patches)

    def metrics(self, detector: Detector) -> dict[str, Any]:
        """Figures of the detector on the test split."""

        @torch.no_grad()
        def score(sample: Sample) -> tuple[float, Any]:
            prepared = prepare(sample, self.preprocessing)
            inputs = as_tensors(prepared.inputs)
            result, anomaly_map = detector(*(inputs[name] for name in detector.input_names))
            return float(result), prepared.to_sensor(anomaly_map.numpy())

        return evaluate(score, self.preprocessing, self.samples.test, _StepsTo(self.report))

    def _inspection_inputs(self, sample: Sample, detector: Detector) -> list[Tensor]:
        inputs = as_tensors(prepare(sample, self.preprocessing).inputs)
        return [inputs[name] for name in detector.input_names]

    def _patch_features(self, modality: Modality) -> PatchFeatures:
        """A modality's patch features, projected on principal components where the recipe says so."""
        extractor, cut_out = self._extractor(modality), shows_part_alone(self.recipe, modality)
        if self.recipe.components is None or self.recipe.components >= extractor.width:
            return PatchFeatures(extractor, cut_out=cut_out)
        if not (self.run / f"projection-{modality}.safetensors").exists():
            directory.save_basis(self.run, self._basis(PatchFeatures(extractor, cut_out=cut_out), modality), modality)
        return PatchFeatures(extractor, cut_out=cut_out, basis=directory.load_basis(self.run, modality))

    def _basis(self, features: PatchFeatures, modality: Modality) -> Tensor:
        """Principal components of the training samples' features, with those of all categories of a joint network."""
        assert self.recipe.components is not None
        categories = ["", *self.samples.joint] if self.recipe.hallucination != "none" else [""]
        samples = [s for category in categories for s in self._stored(features, modality, category, raw=True)]
        rows = (bank_rows([(s["rows"], s["cells"])], self.recipe) for s in samples)
        return principal_directions(rows, self.recipe.components)

    def _extractor(self, modality: Modality) -> Extractor:
        if (self.run / f"extractor-{modality}.safetensors").exists():
            extractor = directory.load_extractor(self.run, self.recipe, modality)
        else:
            extractor = directory.build_extractor(self.recipe, modality)
            if isinstance(extractor, PointMae) and extractor.spec.normalisation == "frozen":
                self._calibrate(extractor)
            directory.save_extractor(self.run, extractor, modality)
        self.provenance[modality] = {"extractor": extractor.provenance}
        weights = weights_file(self.recipe.weights(modality))
        if weights is not None:
            self.provenance[modality]["weights_sha256"] = sha256_of(weights)
        return extractor

    def _calibrate(self, extractor: PointMae) -> None:
        samples = [files for each in (self.samples.train, *self.samples.joint.values()) for files in each]
        chosen = samples[:: max(1, len(samples) // CALIBRATION_CLOUDS)][:CALIBRATION_CLOUDS]
        clouds = []
        for i, files in enumerate(chosen):
            clouds.append(self._inputs(files, "xyz")["groups"][0])
            self.report("calibrate point encoder", i + 1, len(chosen))
        extractor.calibrate(clouds)

    def _inputs(self, files: SampleFiles, modality: Modality, category: str = "") -> dict[str, Tensor]:
        preprocessing = make_preprocessing(self.recipe, self.preprocessing.colour, modality)
        followed = self._followed(category)
        preprocessing = replace(preprocessing, top=followed.top, part=followed.part)
        return as_tensors(prepare(files.read(self.preprocessing.colour), preprocessing).inputs)

    def _followed(self, category: str) -> Preprocessing:
        """The preprocessing of a category that the distillation network is trained on too, or of the main one."""
        if not category:
            return self.preprocessing
        if category not in self.preprocessings:
            samples = self.samples.joint[category]
            assert self.recipe.view != "auto"  # the record names the chosen view
            self.preprocessings[category] = learn_view(
                self.recipe.view, samples, self.preprocessing, _StepsTo(self.report)
            )
        return self.preprocessings[category]

    def _stored(
        self, features: PatchFeatures, modality: Modality, category: str = "", *, raw: bool = False
    ) -> list[Stored]:
        """What later steps need of every training sample, each kept on disk until the run is complete.

        Args:
            features: to extract with.
            modality: of the features.
            category: one that the network is trained on too, or "" for the main one.
            raw: with all channels of the extractor, to find the principal components of. These are projected, not
                extracted again, when they are asked for without, and given up then.
        """
        samples = self.samples.joint[category] if category else self.samples.train
        kind = f"{category}/{modality}" if category else modality
        raws = f"{kind}-raw"
        features.to(self.device)
        stored = []
        for i, files in enumerate(samples):

            def make(files: SampleFiles = files) -> Stored:
                if not raw and self.cache.has(raws, files.name):
                    return self._projected(features, self.cache.read(raws, files.name), modality)
                return self._features(features, files, modality, category, raw=raw)

            stored.append(self.cache.get(raws if raw else kind, files.name, len(samples), make))
            self.report(f"extract {modality} features", i + 1, len(samples))
        if not raw:
            self.cache.drop(raws)
        features.cpu()
        return stored

    @torch.no_grad()
    def _features(
        self, features: PatchFeatures, files: SampleFiles, modality: Modality, category: str, *, raw: bool
    ) -> Stored:
        inputs = {name: value.to(self.device) for name, value in self._inputs(files, modality, category).items()}
        stored = {}
        if self._shown == modality:
            stored["image"] = features.image(inputs[image_name(self.recipe, modality)])
        if raw or not self._only_shown(modality):
            fed = [inputs[name] for name in input_names(self.recipe, modality)]
            stored["rows"], stored["cells"] = features(*fed)
        return stored

    @torch.no_grad()
    def _projected(self, features: PatchFeatures, stored: Stored, modality: Modality) -> Stored:
        """What `_features` makes of a sample, from what it made with all channels."""
        if self._only_shown(modality):
            return {"image": stored["image"]}
        return {**stored, "rows": features.project(stored["rows"].to(self.device))}

    @property
    def _shown(self) -> Modality | None:
        """The modality that the network takes, or makes, as an image."""
        return {"i2f": self.recipe.mains[0], "f2i": self.recipe.other}.get(self.recipe.hallucination)

    def _only_shown(self, modality: Modality) -> bool:
        """Whether nothing but the image of a modality is needed to train the network."""
        return self.recipe.hallucination == "f2i" and self._shown == modality and self.recipe.mode == "default"

    def _hallucinated(self, main: PatchFeatures, stored: list[Stored]) -> Hallucinated | None:
        recipe = self.recipe
        if recipe.hallucination == "none":
            return None
        other = self._patch_features(recipe.other)
        if not (self.run / "hallucination.safetensors").exists():
            self._train_network(main, stored, other)
        return directory.load_hallucinated(self.run, recipe, main.grid)

    def _train_network(self, main: PatchFeatures, stored: list[Stored], other: PatchFeatures) -> None:
        recipe, grids = self.recipe, (main.grid, other.grid)
        mains, others = list(stored), self._stored(other, recipe.other)
        for category in self.samples.joint:
            mains += self._stored(main, recipe.mains[0], category)
            others += self._stored(other, recipe.other, category)
        pairs = _Pairs(mains, others, grids, recipe)
        network = new_network(pairs, recipe)
        log = distil(
            network,
            pairs,
            recipe,
            checkpoint=self.run / "distillation.checkpoint.safetensors",
            device=self.device,
            reporter=_StepsTo(self.report),
        )
        write_log(self.run / "distillation.csv", log)
        plot_losses(self.run / "distillation.png", [e.loss for e in log], [e.validation for e in log])
        grid = hallucination_grid(recipe, *grids)
        directory.save_network(self.run, network, grid)

    def _hallucinate(self, hallucinated: Hallucinated, stored: list[Stored]) -> list[Patches]:
        """Hallucinated patch features of every training sample."""

        @torch.no_grad()
        def make(sample: Stored) -> Stored:
            given = [sample[name].to(self.device) for name in ("rows", "cells", "image") if name in sample]
            rows, cells = hallucinated(*given) if len(given) == 3 else hallucinated(*given, None)
            return {"rows": rows, "cells": cells}

        hallucinated.to(self.device)
        patches = []
        for i, (sample, files) in enumerate(zip(stored, self.samples.train, strict=True)):
            made = self.cache.get("hallucinated", files.name, len(stored), lambda s=sample: make(s))  # type: ignore[misc]
            patches.append((made["rows"], made["cells"]))
            self.report(f"hallucinate {self.recipe.other} features", i + 1, len(stored))
        hallucinated.cpu()
        return patches

    @torch.no_grad()
    def _banks(self, patches: list[list[Patches]]) -> list[MemoryBank]:
        if (self.run / "banks.safetensors").exists():
            return directory.load_banks(self.run, self.recipe)
        statistics = self._shared_statistics(patches) if self.recipe.mode == "faithful" and len(patches) > 1 else None
        banks = {
            name: self._bank(name, bank_rows(each, self.recipe), statistics)
            for name, each in zip(directory.bank_names(self.recipe), patches, strict=True)
        }
        directory.save_banks(self.run, banks)
        return list(banks.values())

    def _shared_statistics(self, patches: list[list[Patches]]) -> tuple[float, float]:
        """The published single pair: mean of raw xyz patches, deviation of raw rgb patches (§10.1)."""
        by_modality = dict(zip(self.recipe.mains, patches, strict=False))
        for modality in ("xyz", "rgb"):
            if modality not in by_modality:
                stored = self._stored(self._patch_features(modality), modality)
                by_modality[modality] = [(s["rows"], s["cells"]) for s in stored]
        xyz, rgb = by_modality["xyz"], by_modality["rgb"]
        return float(bank_rows(xyz, self.recipe).mean()), float(bank_rows(rgb, self.recipe).std())

    def _bank(self, name: str, rows: Tensor, statistics: tuple[float, float] | None) -> MemoryBank:
        mean, std = statistics or (float(rows.mean()), float(rows.std()))
        normalised = (rows - mean) / std
        chosen = choose_rows(
            normalised,
            self.recipe,
            lambda done, total: self.report(f"choose {name} bank", done, total),
            device=self.device,
        )
        rows, reweight = normalised[torch.from_numpy(chosen)].contiguous(), self.recipe.image_score == "reweighted"
        return MemoryBank.from_rows(rows, mean, std, reweight=reweight)

    @torch.no_grad()
    def _calibrated(self, detector: Detector, banks: list[MemoryBank], patches: list[list[Patches]]) -> Detector:
        held_out, golden = self._held_out_patches(detector)
        directory.save_quantisation_inputs(self.run, self._quantisation_inputs(detector))
        directory.save_held_out(self.run, self._held_out_inputs(detector))
        outcomes = []
        for i, (files, sample) in enumerate(zip(self.samples.held_out, held_out, strict=True)):
            outcomes.append(self._over_sensor(files, detector.score_each(sample)))
            self.report("calibrate threshold", i + 1, len(held_out))
        if all(_is_whole(bank, each, self.recipe) for bank, each in zip(banks, patches, strict=True)):
            outcomes += self._without_own_rows(detector, banks, patches)
        fitted_on = self._in_banks(detector, patches) if self.recipe.fusion == "ocsvm" else outcomes
        detector.score_weights = fusion_weights(torch.stack([s for s, _ in fitted_on]), self.recipe)
        detector.map_weights = fusion_weights(torch.cat([m.flatten(1).T for _, m in fitted_on]), self.recipe)
        scores = [float((detector.score_weights * s).sum()) for s, _ in outcomes]
        peaks = [float((detector.map_weights[:, None, None] * m).sum(0).max()) for _, m in outcomes]
        calibration = calibrate(scores, peaks, self.recipe.false_reject_rate)
        directory.save_golden(self.run, golden)
        directory.save_calibration(self.run, calibration, detector.score_weights, detector.map_weights)
        return detector

    def _over_sensor(self, files: SampleFiles, outcome: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Scores and maps `[banks, size, size]` of a sample, maps over the sensor's image as the operator sees them."""
        if self.recipe.view == "sensor":
            return outcome
        scores, maps = outcome
        prepared = prepare(files.read(self.preprocessing.colour), self.preprocessing)
        return scores, torch.from_numpy(prepared.each_to_sensor(maps.numpy()))

    def _in_banks(self, detector: Detector, patches: list[list[Patches]]) -> list[tuple[Tensor, Tensor]]:
        """Scores and maps of the training samples that the banks hold, which the published fusion is fitted on."""
        by_sample = [list(each) for each in zip(*patches, strict=True)]
        samples = zip(self.samples.train, by_sample, strict=True)
        return [self._over_sensor(files, detector.score_each(found)) for files, found in samples]

    def _without_own_rows(
        self, detector: Detector, banks: list[MemoryBank], patches: list[list[Patches]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Scores and maps of every training sample against banks without its own rows: it is held out of them."""
        starts = [np.cumsum([0, *(len(bank_rows([each], self.recipe)) for each in found)]) for found in patches]
        outcomes = []
        for i, files in enumerate(self.samples.train):
            others = [bank.without(start[i], start[i + 1]) for bank, start in zip(banks, starts, strict=True)]
            outcomes.append(self._over_sensor(files, detector.against(others).score_each([p[i] for p in patches])))
            self.report("hold out training samples", i + 1, len(self.samples.train))
        return outcomes

    def _quantisation_inputs(self, detector: Detector) -> dict[str, dict[str, Tensor]]:
        """What inspection feeds the detector of some training samples and tampered copies of them.

        Export calibrates int8 and fp8 on it. Good samples alone would clip what defects look like.
        """
        samples = self.samples.train
        chosen = samples[:: max(1, len(samples) // QUANTISATION_SAMPLES)][:QUANTISATION_SAMPLES]
        inputs: dict[str, dict[str, Tensor]] = {}
        for i, files in enumerate(chosen):
            inputs |= self._good_and_tampered(str(i), files, detector)
        return inputs

    def _held_out_inputs(self, detector: Detector) -> dict[str, dict[str, Tensor]]:
        """What inspection feeds the detector of held-out samples, evenly spread, and of tampered copies of them.

        Export measures on it what a faster search or a smaller bank changes.
        """
        inputs: dict[str, dict[str, Tensor]] = {}
        chosen = evenly_spread(self.samples.held_out, HELD_OUT_SAMPLES)
        for i, files in enumerate(chosen):
            inputs |= self._good_and_tampered(f"{i:02d}", files, detector)
            self.report("keep held-out samples", i + 1, len(chosen))
        return inputs

    def _good_and_tampered(self, name: str, files: SampleFiles, detector: Detector) -> dict[str, dict[str, Tensor]]:
        """Network inputs of a sample and of its tampered copy, as `NAME-good` and `NAME-tampered`."""
        sample = files.read(self.preprocessing.colour)
        shown = {"good": sample, "tampered": tamper(sample, self.preprocessing)}
        return {
            f"{name}-{kind}": dict(zip(detector.input_names, self._inspection_inputs(each, detector), strict=True))
            for kind, each in shown.items()
        }

    def _held_out_patches(self, detector: Detector) -> tuple[list[list[Patches]], dict[str, dict[str, Tensor]]]:
        """Patch features of the held-out samples, and the golden set: some of them and tampered copies."""
        patches, golden = [], {}
        for i, files in enumerate(self.samples.held_out):
            sample = files.read(self.preprocessing.colour)
            inputs = self._inspection_inputs(sample, detector)
            patches.append(detector.patches(*inputs))
            if i < GOLDEN_SAMPLES:
                tampered = self._inspection_inputs(tamper(sample, self.preprocessing), detector)
                golden[f"{i}-good"] = dict(zip(detector.input_names, inputs, strict=True))
                golden[f"{i}-tampered"] = dict(zip(detector.input_names, tampered, strict=True))
            self.report("extract held-out features", i + 1, len(self.samples.held_out))
        return patches, golden


def evenly_spread(samples: Sequence[SampleFiles], count: int) -> list[SampleFiles]:
    """`count` of the samples at equal steps, the first one included; all where there are no more."""
    count = min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def make_pair(main: Stored, other: Stored, grids: tuple[int, int], recipe: Recipe) -> Pair:
    """What one sample teaches a distillation network: given and wanted, see `distillation.Pairs`.

    F2F, published: one pair per cell of the finer grid (§5, §9). Default: one pair per distinct row of the main
    modality, its target the mean over the cells that share the row, since equal inputs can only learn one output.

    Args:
        main: `rows` and `cells` of the main modality, for I2F also its `image`.
        other: `rows` and `cells` of the other one, for F2I its `image`.
        grids: sides of the grids of main and other features.
        recipe: what is trained.
    """
    main_grid, other_grid = grids
    if recipe.hallucination == "f2i":
        given = main["rows"][main["cells"]]
        finer = max(grids) if recipe.mode == "faithful" else main_grid
        return regrid(given, main_grid, finer), other["image"]
    grid = hallucination_grid(recipe, main_grid, other_grid)
    target = other["rows"][other["cells"]]
    if recipe.hallucination == "i2f":
        return main["image"], regrid(target, other_grid, recipe.size // 4)
    if recipe.mode == "faithful":
        finer = max(grids)
        return regrid(main["rows"][main["cells"]], main_grid, finer), regrid(target, other_grid, finer)
    return _distinct_pair(main["rows"], main["cells"], regrid(target, other_grid, grid))


def _distinct_pair(rows: Tensor, cells: Tensor, targets: Tensor) -> Pair:
    used, position, count = torch.unique(cells, return_inverse=True, return_counts=True)
    total = torch.zeros(len(used), targets.shape[1]).index_add_(0, position, targets)
    return rows[used], total / count[:, None]


def bank_rows(patches: list[Patches], recipe: Recipe) -> Tensor:
    """Candidate rows of a bank `[n, C]`: every cell as published, or every distinct row."""
    if recipe.mode == "faithful":
        return torch.cat([rows[cells] for rows, cells in patches])
    return torch.cat([rows[torch.unique(cells)] for rows, cells in patches])


def _is_whole(bank: MemoryBank, patches: list[Patches], recipe: Recipe) -> bool:
    """Whether a bank holds every candidate row, in the order of the samples."""
    return recipe.mode == "default" and len(bank.rows) == sum(len(bank_rows([each], recipe)) for each in patches)


def choose_rows(
    rows: Tensor,
    recipe: Recipe,
    progress: Callable[[int, int], None] | None = None,
    *,
    device: torch.device | None = None,
) -> Any:
    """Indices int64 of the rows that a bank keeps, in order of selection."""
    if recipe.coreset == 1 or (recipe.coreset is None and len(rows) <= MOST_ROWS):
        return np.arange(len(rows))
    count = MOST_ROWS if recipe.coreset is None else max(3, int(recipe.coreset * len(rows)))
    projected = project(rows, eps=recipe.coreset_eps, seed=recipe.seed).to(device or "cpu")
    return greedy_coreset(projected, count, half=recipe.mode == "faithful", progress=progress)
