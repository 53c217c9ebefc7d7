"""Weights, memory banks and samples that the contenders of `compare` share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmdiad_runtime.engines import Precision
from cmdiad_runtime.names import Modality
from cmdiad_runtime.preprocess.cloud.cloud_inputs import frame_cloud
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.features.patches import Extractor, Hallucinated, PatchFeatures, hallucination_grid
from cmdiad_train.detectors.bank.memory_bank import MemoryBank
from cmdiad_train.detectors.bank.preprocessing import make_preprocessing
from cmdiad_train.detectors.bank.search.exact import SearchSettings
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
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
from studies.published import Published, PublishedBank

RGB_BANK, XYZ_BANK = 19_129, 76_518
"""Rows of the banks of a whole class at the published tenth (method §18)."""
SEEDED_VIT = replace(PUBLISHED_RGB, weights="seeded")
SPREAD = 0.05
"""Standard deviation of drawn rows around the line between two real rows, in deviations of the features."""


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
            detector.set_search(plan)
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
    network = f2f_network(setup, rgb.width, xyz.width)
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


def f2f_network(setup: Setup, rgb_width: int, xyz_width: int) -> FeatureToFeature:
    """Return the F2F network from the main modality with random weights."""
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
