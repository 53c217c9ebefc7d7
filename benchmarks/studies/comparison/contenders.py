"""The contenders of `compare`: the published inference, cmdiad in each form, and their stages, on one set of banks."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cmdiad_export.graph.exporter import export_graph
from cmdiad_export.precision.casting import to_precision
from cmdiad_export.precision.reduction import QuantisedGraphs
from cmdiad_runtime.bundle.certificate import tolerance_for
from cmdiad_runtime.engines import Precision, open_engine
from cmdiad_runtime.preprocess.cloud.cloud_inputs import frame_cloud, prepare_cloud
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_runtime.sample import Modality, Sample
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.hallucination import FeatureToFeature
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.patches import Extractor, Hallucinated, PatchFeatures, hallucination_grid
from cmdiad_train.detectors.bank.preprocessing import make_preprocessing
from cmdiad_train.detectors.bank.search.exact import SearchSettings
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.recipe import (
    PUBLISHED_DISTILLATION,
    PUBLISHED_RGB,
    PUBLISHED_XYZ,
    BankRecipe,
    Mode,
    Recipe,
    RgbExtractor,
)
from cmdiad_train.recipe import XyzExtractor as PointExtractor
from studies.comparison.floor import Work, total_work, work_of
from studies.comparison.stage_times import ProfiledGraph
from studies.published import Published, PublishedBank

RGB_BANK, XYZ_BANK = 19_129, 76_518
"""Rows of the banks of a whole class at the published tenth (method §18)."""
SEEDED_VIT = replace(PUBLISHED_RGB, weights="seeded")
SPREAD = 0.05  # of drawn rows around the line between two real ones, in standard deviations of the features


@dataclass(frozen=True)
class Setup:
    """Common settings of all contenders.

    Attributes:
        main: Modality that is inspected.
        hallucination: "f2f", or "none" for a detector with one bank.
        rgb: Image extractor with random weights.
        xyz: Point extractor with random weights.
        size: Side of the working images in pixels.
        rgb_bank: Rows of the bank of image features.
        xyz_bank: Rows of the bank of point features, and of that of hallucinated features.
        seed: Seed of weights and random rows.
    """

    main: Modality
    hallucination: Literal["none", "f2f"] = "f2f"
    rgb: RgbExtractor = SEEDED_VIT
    xyz: PointExtractor = PUBLISHED_XYZ
    size: int = 224
    rgb_bank: int = RGB_BANK
    xyz_bank: int = XYZ_BANK
    seed: int = 0

    def recipe(self, mode: Mode) -> Recipe:
        """Return the recipe of the detector in a mode."""
        xyz = self.xyz if mode == "faithful" else replace(self.xyz, normalisation="frozen")
        part = BankRecipe(
            mode=mode,
            hallucination=self.hallucination,
            rgb=self.rgb,
            xyz=xyz,
            distillation=PUBLISHED_DISTILLATION,
            components=None,
            image_score="reweighted" if mode == "faithful" else "max",
        )
        return Recipe(part, modality=self.main, size=self.size, view="sensor", seed=self.seed)


@dataclass(frozen=True)
class Form:
    """A form of cmdiad.

    Attributes:
        mode: "faithful" or "default".
        precision: Precision of the graph.
        plan: Settings of the search.
    """

    mode: Mode
    precision: Precision
    plan: SearchSettings = field(default_factory=SearchSettings)

    @property
    def name(self) -> str:
        """Name in the tables."""
        if self.plan.width is None:
            return f"{self.mode} {self.precision}"
        proven = ", proven" if self.plan.proven else ""
        return f"{self.mode} {self.precision}{proven}, {self.plan.width} components, {self.plan.candidates} candidates"

    @property
    def exact(self) -> bool:
        """True if the form computes the same as the trained detector except for rounding."""
        return self.precision == "fp32" and self.plan.exact


@dataclass(frozen=True)
class Paired:
    """A sample as the sensors saw it and as the published program receives it.

    Attributes:
        sample: rgb and xyz.
        resized: uint8 `[1, size, size, 3]`, image in the network's view.
        rgb: float32 `[1, 3, size, size]`, normalised.
        xyz: float32 `[3, size, size]`, metres, zeros in the background.
    """

    sample: Sample
    resized: npt.NDArray[np.uint8]
    rgb: Tensor
    xyz: Tensor

    def save(self, path: Path) -> None:
        """Write the arrays for a separate process (`studies.comparison.peak`)."""
        assert self.sample.rgb is not None and self.sample.xyz is not None
        np.savez(
            path,
            rgb=self.sample.rgb,
            xyz=self.sample.xyz,
            resized=self.resized,
            image=self.rgb.numpy(),
            cloud=self.xyz.numpy(),
        )


@dataclass(frozen=True)
class RunResult:
    """Result of one run of a contender.

    Attributes:
        score: Image score.
        total_ms: Milliseconds: of the published program from resized tensors, of cmdiad from sensor data with
            preprocessing.
    """

    score: float
    total_ms: float


@dataclass(frozen=True)
class Parts:
    """Weights and banks that the contenders share.

    Attributes:
        setup: Settings that the parts are made for.
        rgb: Image extractor.
        xyz: Point extractor that normalises with the statistics of each cloud.
        frozen: The same extractor with the statistics of the samples.
        network: F2F network.
        banks: Main bank, and with hallucination the bank of hallucinated features.
    """

    setup: Setup
    rgb: TimmBackbone
    xyz: PointMae
    frozen: PointMae
    network: FeatureToFeature
    banks: tuple[MemoryBank, ...]

    def published(self) -> Published:
        """Return the published inference with these parts."""
        main, hallucinated = (PublishedBank(bank.rows, 1.0, 1.0) for bank in self.banks)
        mean, std = self.banks[0].mean, self.banks[0].std
        banks = (main, hallucinated)
        return Published(self.setup.main, self.rgb, self.xyz, self.network, banks, mean, std, self.setup.size)

    def detector(self, mode: Mode, plan: SearchSettings | None = None) -> Detector:
        """Return cmdiad's detector in fp32 torch with these parts."""
        recipe = self.setup.recipe(mode)
        xyz = self.xyz if mode == "faithful" else self.frozen
        main: Extractor = self.rgb if self.setup.main == "rgb" else xyz
        hallucinated = None
        if self.setup.hallucination != "none":
            grid = hallucination_grid(recipe, main.grid, (xyz if self.setup.main == "rgb" else self.rgb).grid)
            hallucinated = Hallucinated(self.network, main_grid=main.grid, grid=grid)
        detector = Detector(recipe, [PatchFeatures(main)], list(self.banks), hallucinated)
        if plan is not None and plan != SearchSettings():
            detector.plan_search(plan)
        return detector


def pair(sample: Sample, setup: Setup, rgb: TimmBackbone) -> Paired:
    """Return a sample with its published tensors: the image as it is, the cloud without its background."""
    recipe = setup.recipe("faithful")
    image = prepare(sample, make_preprocessing(recipe, "rgb", "rgb")).inputs["rgb"]
    options = make_preprocessing(recipe, "rgb", "xyz")
    geometry = PartGeometry(sample, foreground=True, seed=options.seed)
    frame = frame_cloud(geometry, size=setup.size, pad_multiple=options.pad_multiple)
    cloud = torch.from_numpy(np.ascontiguousarray(frame.xyz.transpose(2, 0, 1)))
    return Paired(sample, image, rgb.normalise(torch.from_numpy(image.copy())), cloud)


@torch.no_grad()
def build_parts(
    setup: Setup, samples: Sequence[Sample], good: Sequence[Sample], reporter: Reporter
) -> tuple[Parts, list[Paired]]:
    """Create random weights, and banks of the requested sizes from features of good samples.

    Args:
        setup: Settings of the parts.
        samples: Samples to measure on.
        good: Other samples, whose features fill the banks. If they have too few distinct features, further rows are
            drawn between them.
        reporter: Receiver of messages.
    """
    rgb, xyz = TimmBackbone(setup.rgb, size=setup.size, seed=setup.seed), PointMae(setup.xyz, seed=setup.seed)
    network = _network(setup, rgb.width, xyz.width)
    paired = [pair(sample, setup, rgb) for sample in samples]
    frozen = copy.deepcopy(xyz)
    frozen.spec = replace(setup.xyz, normalisation="frozen")
    frozen.calibrate([_cloud_groups(sample, setup) for sample in samples])
    main = PatchFeatures(rgb if setup.main == "rgb" else xyz)
    reporter.say(f"features of {len(good)} good samples")
    rows = _distinct(torch.cat([_main_features(main, sample, setup) for sample in good]))
    features = [rows] if setup.hallucination == "none" else [rows, network(rows)]
    mean, std = float(rows.mean()), float(rows.std())
    sizes = (setup.rgb_bank if setup.main == "rgb" else setup.xyz_bank, setup.xyz_bank)
    banks = []
    for number, (rows, count) in enumerate(zip(features, sizes, strict=False)):
        reporter.say(f"bank {number + 1} of {len(features)}: {count} x {rows.shape[1]}, with neighbours")
        banks.append(MemoryBank.from_rows(bank_rows((rows - mean) / std, count, seed=setup.seed + number), mean, std))
    return Parts(setup, rgb, xyz, frozen, network, tuple(banks)), paired


def _main_features(main: PatchFeatures, sample: Sample, setup: Setup) -> Tensor:
    options = make_preprocessing(setup.recipe("faithful"), "rgb", setup.main)
    return main(*as_tensors(prepare(sample, options).inputs).values())[0]


def bank_rows(rows: Tensor, count: int, *, seed: int) -> Tensor:
    """Return rows float32 `[count, C]`: given rows in any order, then rows drawn between them."""
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
    missing = count - len(chosen)
    return torch.cat([rows[chosen], draw_rows(rows, missing, seed=seed)]) if missing else rows[chosen]


def draw_rows(rows: Tensor, count: int, *, seed: int) -> Tensor:
    """Return rows float32 `[count, C]` on lines between two of the given rows, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(len(rows), (2, count), generator=generator)
    drawn = rows[first].lerp_(rows[second], torch.rand(count, 1, generator=generator))
    noise = torch.randn(drawn.shape, generator=generator)
    return drawn.add_(noise.mul_(SPREAD * rows.std(0)))


class OursContender:
    """A form of cmdiad: a graph in ONNX Runtime behind the runtime's preprocessing.

    Args:
        parts: Weights and banks.
        form: Form to measure.
        paired: Samples. The first is used for the export; int8-cpu must stay within its certificate's tolerance on all.
        folder: Folder for `graph.onnx` and `preprocessing.json`.
    """

    def __init__(self, parts: Parts, form: Form, paired: Sequence[Paired], folder: Path) -> None:
        self.name = form.name
        self.peak_arguments = ["graph", str(folder)]
        folder.mkdir(parents=True, exist_ok=True)
        self.preprocessing = make_preprocessing(parts.setup.recipe(form.mode), "rgb")
        write_json(folder / "preprocessing.json", self.preprocessing.to_json())
        detector = parts.detector(form.mode, form.plan)
        graph = folder / "graph.onnx"
        if form.precision == "int8-cpu":
            inputs = [self._inputs(sample, detector) for sample in paired]
            write_within_tolerance(detector, parts.detector(form.mode), inputs, graph)
        else:
            export_graph(to_precision(detector, form.precision), self._inputs(paired[0], detector), graph)
        self._graph = ProfiledGraph(graph)
        self._geometry_ms: list[float] = []

    def run(self, paired: Paired) -> RunResult:
        """Compute score and map from sensor data."""
        start = time.perf_counter()
        outputs = self._graph.run(prepare(paired.sample, self.preprocessing).inputs)
        result = RunResult(float(outputs["score"][0]), (time.perf_counter() - start) * 1e3)
        if self.preprocessing.modality == "xyz":
            self._geometry_ms.append(self._time_geometry(paired))
        return result

    def _inputs(self, paired: Paired, detector: Detector) -> dict[str, Tensor]:
        arrays = as_tensors(prepare(paired.sample, self.preprocessing).inputs)
        return {name: arrays[name] for name in detector.input_names}

    def _time_geometry(self, paired: Paired) -> float:
        """Return milliseconds of sampling, grouping and interpolation on the published program's cloud."""
        framed = np.ascontiguousarray(paired.xyz.numpy().transpose(1, 2, 0))
        start = time.perf_counter()
        prepare_cloud(
            PartGeometry(Sample(paired.sample.name, xyz=framed), foreground=False),
            size=self.preprocessing.size,
            pad_multiple=1,
            groups=self.preprocessing.groups,
            group_size=self.preprocessing.group_size,
            grid=self.preprocessing.grid,
        )
        return (time.perf_counter() - start) * 1e3

    def close(self) -> list[dict[str, float]]:
        """Release the engine's memory. Return milliseconds of each of `STAGES` in each run."""
        runs = self._graph.close()
        for stages, geometry_ms in zip(runs, self._geometry_ms, strict=False):
            stages["geometry"] += geometry_ms
        if self.preprocessing.modality == "rgb":  # an image has none: what lies behind its extractor is a reshape
            for stages in runs:
                stages["extract"] += stages.pop("geometry")
        return [{stage: ms for stage, ms in stages.items() if ms} for stages in runs]


class PublishedContender:
    """The published inference in torch; files for a separate process go to `folder`."""

    name = "published"

    def __init__(self, parts: Parts, folder: Path) -> None:
        self._published = parts.published()
        self._stages_ms: list[dict[str, float]] = []
        self.peak_arguments = ["published", str(folder)]
        save_published(parts, folder)

    def run(self, paired: Paired) -> RunResult:
        """Compute score and map from resized tensors."""
        start = time.perf_counter()
        prediction = self._published.predict(paired.rgb, paired.xyz)
        self._stages_ms.append(prediction.stages_ms)
        return RunResult(prediction.score, (time.perf_counter() - start) * 1e3)

    def close(self) -> list[dict[str, float]]:
        """Return milliseconds of each stage in each run."""
        return self._stages_ms


@torch.no_grad()
def write_within_tolerance(detector: Detector, exact: Detector, inputs: list[dict[str, Tensor]], path: Path) -> None:
    """Write a detector's int8-cpu graph with as many products in int8 as the tolerance allows."""
    expected = [float(exact(*sample_inputs.values())[0]) for sample_inputs in inputs]
    tolerance = tolerance_for("int8-cpu", published_blur=False, fast_search=True).score
    graphs = QuantisedGraphs(detector, "int8-cpu", inputs[0], [], path)
    for level in graphs.levels():
        graphs.write(level)
        with closing(open_engine(path)) as engine:
            scores = [
                engine.run({name: value.numpy() for name, value in sample_inputs.items()})["score"]
                for sample_inputs in inputs
            ]
        if all(
            abs(float(score[0]) / expected_score - 1) <= tolerance
            for score, expected_score in zip(scores, expected, strict=True)
        ):
            return


StageModules = dict[str, tuple[nn.Module, dict[str, Tensor]]]


@torch.no_grad()
def stage_modules(detector: Detector, inputs: dict[str, Tensor]) -> StageModules:
    """Return the stages that contain products as modules, each with the inputs of one sample by name."""
    features = detector.features[0]
    assert isinstance(features, PatchFeatures)
    rows, _ = features(*inputs.values())
    modules: StageModules = {"extract": (_Extract(features.extractor), _fed_to_extractor(inputs))}
    if "weights" in inputs:
        group_features = modules["extract"][0](*modules["extract"][1].values())
        modules["pool"] = (_Pool(), {"weights": inputs["weights"], "features": group_features})
    searched = [rows]
    if detector.hallucinated is not None:
        network = _Float(detector.hallucinated.network)
        modules["hallucination"] = (network, {"rows": rows})
        searched.append(network(rows))
    for number, queries in enumerate(searched):
        scorer = detector.scorers[number]
        assert isinstance(scorer, BankScorer)
        modules[f"search-{number}"] = (_Search(scorer), {"rows": queries})
    return modules


def needed_work(parts: Parts, paired: Paired) -> dict[str, Work]:
    """Return the necessary work of each stage in cmdiad's fp32 form; stages without products are left out."""
    detector = parts.detector("faithful")
    prepared = prepare(paired.sample, make_preprocessing(parts.setup.recipe("faithful"), "rgb"))
    inputs = as_tensors(prepared.inputs)
    modules = stage_modules(detector, {name: inputs[name] for name in detector.input_names})
    work = {name: work_of(module, *fed.values()) for name, (module, fed) in modules.items()}
    needed: dict[str, Work] = {name: work[name] for name in ("extract", "hallucination") if name in work}
    if "pool" in work:
        needed["geometry"] = work["pool"]
    return needed | {"search": total_work(work[name] for name in work if name.startswith("search"))}


def save_published(parts: Parts, folder: Path) -> None:
    """Save the files from which a separate process rebuilds the published inference."""
    folder.mkdir(parents=True, exist_ok=True)
    banks = {f"bank{number}": bank.rows.contiguous() for number, bank in enumerate(parts.banks)}
    save_file(banks, folder / "banks.safetensors")
    write_json(
        folder / "setup.json", {"setup": asdict(parts.setup), "mean": parts.banks[0].mean, "std": parts.banks[0].std}
    )


def load_published(folder: Path) -> Published:
    """Load the published inference that `save_published` wrote; weights come from the seed again."""
    record = json.loads((folder / "setup.json").read_text(encoding="utf-8"))
    fields = record["setup"]
    fields["rgb"], fields["xyz"] = RgbExtractor(**_tuples(fields["rgb"])), PointExtractor(**_tuples(fields["xyz"]))
    setup = Setup(**fields)
    rgb, xyz = TimmBackbone(setup.rgb, size=setup.size, seed=setup.seed), PointMae(setup.xyz, seed=setup.seed)
    rows = load_file(folder / "banks.safetensors")
    banks = (PublishedBank(rows["bank0"], 1.0, 1.0), PublishedBank(rows["bank1"], 1.0, 1.0))
    network = _network(setup, rgb.width, xyz.width)
    return Published(setup.main, rgb, xyz, network, banks, record["mean"], record["std"], setup.size)


class _Extract(nn.Module):
    """An extractor's features of one sample, `[T, C]`."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.extractor(*inputs)[0].float()


class _Pool(nn.Module):
    """Interpolation, zero fill and pooling as one product."""

    def forward(self, weights: Tensor, features: Tensor) -> Tensor:
        return weights @ features


class _Float(nn.Module):
    """A network whose output is float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: Tensor) -> Tensor:
        return self.network(rows).float()


class _Search(nn.Module):
    """Normalisation and search of a bank."""

    def __init__(self, scorer: BankScorer) -> None:
        super().__init__()
        self.search, self.mean, self.std = scorer.search, scorer.mean, scorer.std

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.search((rows - self.mean) / self.std)


def _network(setup: Setup, rgb_width: int, xyz_width: int) -> FeatureToFeature:
    width, out = (rgb_width, xyz_width) if setup.main == "rgb" else (xyz_width, rgb_width)
    options = PUBLISHED_DISTILLATION
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.seed)
        return FeatureToFeature(width, out, expansion=options.expansion, output=options.output).eval()


def _cloud_groups(sample: Sample, setup: Setup) -> Tensor:
    options = make_preprocessing(setup.recipe("faithful"), "rgb", "xyz")
    return as_tensors(prepare(sample, options).inputs)["groups"][0]


def _distinct(rows: Tensor) -> Tensor:
    """Return the distinct rows."""
    return torch.unique(rows, dim=0)


def _fed_to_extractor(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in inputs.items() if name not in ("weights", "cells")}


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
