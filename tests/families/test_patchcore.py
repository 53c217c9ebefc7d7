"""PatchCore is a preset of the memory bank family whose scores are those of a plain float64 implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from cmdiad_export import cli as export
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.preprocess.prepare import prepare_parts
from cmdiad_train.cli import train
from cmdiad_train.cli.train import recipes_of
from cmdiad_train.datasets import open_category
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.run_files import load_banks
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.recipe import Recipe, bank_part
from cmdiad_train.runs.run import load_run
from helpers import assert_refused, command

Array = npt.NDArray[np.float64]
NEIGHBOURHOOD = 9
GRID = 16


def plain_score(bank: Array, queries: Array) -> float:
    """The image score of the paper (equations 6 and 7) in float64, on features as they are."""
    distance = np.linalg.norm(queries[:, None] - bank[None], axis=2)
    nearest = distance.min(1)
    worst = int(nearest.argmax())
    row = bank[distance[worst].argmin()]
    around = np.linalg.norm(bank - row, axis=1).argsort(kind="stable")[:NEIGHBOURHOOD]
    ratio = np.exp(distance[worst, around] - nearest[worst]).sum()
    return float((1 - 1 / ratio) * nearest[worst])


def plain_patches(stages: list[Tensor]) -> Array:
    """3×3 averages of each stage with zeros around, deeper stages enlarged to the finest grid, `[GRID², C]`."""
    layers = []
    for stage in stages:
        averaged = uniform_filter(stage[0].double().numpy(), (1, 3, 3), mode="constant")
        place = np.clip((np.arange(GRID) + 0.5) * averaged.shape[1] / GRID - 0.5, 0, averaged.shape[1] - 1)
        low = np.minimum(place.astype(int), averaged.shape[1] - 2)
        matrix = np.zeros((GRID, averaged.shape[1]))
        matrix[np.arange(GRID), low] += 1 - (place - low)
        matrix[np.arange(GRID), low + 1] += place - low
        layers.append(np.einsum("ij,cjk,lk->cil", matrix, averaged, matrix))
    return np.concatenate(layers).reshape(-1, GRID * GRID).T


def recipe_of(data: Path, *options: object) -> Recipe:
    context = train.cli.make_context("cmdiad-train", [str(data), "--family", "patchcore", *map(str, options)])
    return recipes_of(context)["patchcore"]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "patchcore"
    options = ("--mode", "faithful", "--rgb-backbone", "test_resnet", "--rgb-weights", "seeded", "--size", 128)
    ended = command(train.cli, data, "--family", "patchcore", *options, "--coreset", 0.01, "--out", out)
    assert ended.code == 0, ended.err
    return out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [5, 9, 60])
def test_image_score_is_that_of_the_paper(seed: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw, queries = (3 * torch.randn(count, 24, generator=generator) + 1 for count in (rows, 49))
    mean, std = 1.0, 3.0
    bank = MemoryBank.from_rows((raw - mean) / std, mean, std, neighbours=8)
    scorer = BankScorer(bank, grid=7, size=56, published_blur=False, image_score="patchcore")
    score, _ = scorer(queries, torch.arange(49))
    expected = plain_score(raw.double().numpy(), queries.double().numpy())
    assert float(score) * std == pytest.approx(expected, rel=1e-5)


def test_weight_never_hides_a_far_patch() -> None:
    """The weight is at least 1 - 1/9, and no exponential overflows."""
    rows = torch.randn(30, 24, generator=torch.Generator().manual_seed(0))
    bank = MemoryBank.from_rows(rows, 0.0, 1e4, neighbours=8)
    scorer = BankScorer(bank, grid=1, size=8, published_blur=False, image_score="patchcore")
    for size in (1.0, 1e5, 1e9):
        query = torch.full((1, 24), size)
        nearest = float(torch.linalg.norm(query / 1e4 - rows, dim=1).min())
        score = float(scorer(query, torch.zeros(1, dtype=torch.int64))[0])
        assert 8 / 9 * nearest * 0.999 <= score <= nearest * 1.001


def test_a_run_scores_like_a_plain_implementation(run: Path, data: Path) -> None:
    loaded = load_run(run)
    detector = loaded.detector
    assert isinstance(detector, Detector)
    (bank,) = load_banks(run, loaded.recipe)
    rows = bank.rows.double().numpy() * bank.std + bank.mean
    extractor: Any = detector.features[0].extractor
    assert isinstance(extractor, TimmBackbone)
    assert len(rows) == int(0.01 * 6 * GRID**2)
    for sample in open_category(data, None).usable("test", ("rgb",)).samples:
        (prepared,) = prepare_parts(sample.read(loaded.preprocessing.colour), loaded.preprocessing)
        image = as_tensors(prepared.inputs)["rgb"]
        score, _ = detector(image)
        expected = plain_score(rows, plain_patches(extractor.stage_maps(extractor.normalise(image))))
        assert float(score) * bank.std == pytest.approx(expected, rel=1e-4)


def test_published_sizes_are_those_of_the_paper(data: Path) -> None:
    recipe = recipe_of(data, "--mode", "faithful", "--rgb-weights", "seeded")
    part = bank_part(recipe)
    assert (part.rgb.backbone, part.rgb.stages, part.rgb.grid) == ("wide_resnet50_2.tv_in1k", (1, 2), 32)
    assert (recipe.size, recipe.view, recipe.verdict) == (256, "sensor", "image")
    assert (part.coreset, part.components, part.image_score) == (0.1, None, "patchcore")
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert part.series == "keep", "as --help says"
    chosen = recipe_of(data, "--mode", "faithful", "--rgb-weights", "seeded", "--series", "leave-out")
    assert bank_part(chosen).series == "leave-out"
    small = bank_part(recipe_of(data, "--coreset", 0.01))
    assert small.series == "leave-out"
    assert (small.coreset, small.image_score, small.mode) == (0.01, "patchcore", "default")


def test_a_bundle_is_certified_and_inspects(run: Path, data: Path, tmp_path: Path) -> None:
    """An export in fp16 certifies the fp32 graph first."""
    bundle = tmp_path / "fp16.cmdiad"
    ended = command(export.cli, run, "--precision", "fp16", "--out", bundle)
    assert ended.code == 0, ended.err
    assert command(run_cli.cli, bundle, "--self-test").code == 0
    manifest = json.loads((bundle / "manifest.json").read_text())
    compared = manifest["certificate"]["comparisons"]
    assert [(each["precision"], each["passed"]) for each in compared] == [("fp32", True), ("fp16", True)]
    assert manifest["recipe"]["detector"]["image_score"] == "patchcore"
    ended = command(run_cli.cli, bundle, data / "gear/test", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err


def test_contradictions_end_in_one_line(data: Path, tmp_path: Path) -> None:
    faithful = ("--family", "patchcore", "--mode", "faithful", "--out", tmp_path / "run")
    assert_refused(command(train.cli, data, *faithful, "--modality", "xyz"), 7, "modality", "rgb with --mode faithful")
    refused = command(train.cli, data, *faithful, "--extractor", "small")
    assert refused.code == 2 and "exclude each other" in refused.err
    refused = command(train.cli, data, "--family", "patchcore", "--hallucination", "f2f")
    assert refused.code == 2 and "--hallucination is an option of the family bank, not of patchcore" in refused.err
