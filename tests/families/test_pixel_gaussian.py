"""A second detector family goes through all commands, without a change outside of its own folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cmdiad_bench import cli as bench
from cmdiad_export import cli as export
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.cli import threshold
from cmdiad_runtime.errors import RunError
from cmdiad_train.cli import train
from cmdiad_train.detectors import registry
from cmdiad_train.recipe import BankRecipe, Recipe
from cmdiad_train.runs.run import load_run
from families.pixel_gaussian import FAMILY, PixelGaussian, PixelGaussianRecipe
from helpers import assert_refused, command, sample_files
from lanes import long

PRECISIONS = {"rgb": "fp32", "xyz": "fp16"}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    registry.register(FAMILY)
    yield
    registry.unregister(FAMILY.name)


@pytest.fixture(scope="module", params=[long("rgb"), "xyz"])
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / request.param
    options = ("--family", FAMILY.name, "--modality", request.param, "--gaussian-cells", 14, "--out", out)
    ended = command(train.cli, data, *options)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"{request.param} extractor: one Gaussian per pixel\ntest split (5 samples)")
    return out


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / f"{run.name}.cmdiad"
    ended = command(export.cli, run, "--engine", PRECISIONS[run.name], "--out", out)
    assert ended.code == 0, ended.err
    return out


def test_a_run_loads_through_its_family(run: Path) -> None:
    loaded = load_run(run)
    assert loaded.family is FAMILY
    assert isinstance(loaded.detector, PixelGaussian)
    assert loaded.recipe.detector == PixelGaussianRecipe(14)
    assert loaded.calibration.samples == 3
    assert {sample.tampered for sample in loaded.golden} == {False, True}
    again = command(train.cli, loaded.record.data.folder, "--family", FAMILY.name, "--gaussian-cells", 9, "--out", run)
    assert_refused(again, 6, run, "another recipe or other data")


def test_a_bundle_is_certified_inspects_and_takes_a_threshold(bundle: Path, data: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["recipe"]["family"] == FAMILY.name
    assert "banks" not in manifest["graph"]
    modality = manifest["recipe"]["modality"]
    assert command(run_cli.cli, bundle, "--self-test").code == 0
    photo = sample_files(data, "test", "good", modality)[0]
    ended = command(run_cli.cli, bundle, photo, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    (line,) = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["score"] > 0
    ended = command(threshold.cli, bundle, "--score", 1e6)
    assert ended.code == 0, ended.err
    assert command(threshold.cli, bundle, "--reset").code == 0


def test_a_bundle_reports_its_figures_and_latency(bundle: Path, data: Path, tmp_path: Path) -> None:
    ended = command(bench.cli, "report", data, bundle, "--out", tmp_path / "report")
    assert ended.code == 0, ended.err
    ended = command(bench.cli, "latency", bundle, "--runs", 2)
    assert ended.code == 0, ended.err
    ended = command(bench.cli, "accuracy", bundle, data, "--json", tmp_path / "accuracy.json")
    assert ended.code == 0, ended.err
    figures = json.loads((tmp_path / "accuracy.json").read_text())
    assert (figures["family"], figures["hallucination"], figures["banks"]) == (FAMILY.name, None, [])


@pytest.mark.long
def test_a_bundle_reports_its_memory(bundle: Path, tmp_path: Path) -> None:
    ended = command(bench.cli, "memory", bundle, "--json", tmp_path / "memory.json")
    assert ended.code == 0, ended.err
    figures = json.loads((tmp_path / "memory.json").read_text())
    assert figures["banks"] == []
    assert figures["peak_resident_mb"] >= figures["opened_mb"] > 0


@pytest.mark.parametrize("options", [("--search", "fast"), ("--plan",), ("--search-mb", 1)])
def test_options_for_banks_end_in_one_clear_line(run: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    refused = command(export.cli, run, *options, "--out", tmp_path / "bundle.cmdiad")
    assert_refused(refused, 5, options[0], "without memory banks")


def test_a_network_cannot_be_taken_over(run: Path, data: Path, tmp_path: Path) -> None:
    options = ("--family", FAMILY.name, "--network-from", run, "--out", tmp_path / "run")
    assert_refused(command(train.cli, data, *options), 7, "--network-from", FAMILY.name)


@pytest.mark.parametrize(
    ("family", "option", "value", "other"),
    [(FAMILY.name, "--coreset", 0.1, "bank"), ("bank", "--gaussian-cells", 14, FAMILY.name)],
)
def test_options_of_another_family_are_refused(
    data: Path, tmp_path: Path, family: str, option: str, value: float, other: str
) -> None:
    refused = command(train.cli, data, "--family", family, option, value, "--out", tmp_path / "run")
    assert refused.code == 2
    assert f"{option} is an option of the family {other}, not of {family}." in refused.err
    assert not (tmp_path / "run").exists()


def test_the_family_names_the_run() -> None:
    assert FAMILY.run_name(Recipe(PixelGaussianRecipe())) == FAMILY.name
    assert registry.family_of("bank").run_name(Recipe(BankRecipe(hallucination="f2f"))) == "f2f"


def test_help_shows_the_options_of_every_family() -> None:
    text = command(train.cli, "--help").out
    assert "--gaussian-cells" in text
    assert "--coreset" in text


def test_unknown_families_are_refused() -> None:
    recipe = Recipe(PixelGaussianRecipe()).to_json()
    assert Recipe.from_json(recipe).family == FAMILY.name
    with pytest.raises(RunError, match="newer cmdiad"):
        Recipe.from_json({**recipe, "family": "crystal-ball"})
    with pytest.raises(RunError, match="newer cmdiad"):
        Recipe.from_json({**recipe, "detector": {"cells": 9, "moon": 1}})
    with pytest.raises(RunError, match="damaged"):
        Recipe.from_json({**recipe, "detector": {"cells": 1}})
    refused = command(train.cli, "data", "--family", "crystal-ball")
    assert refused.code == 2
    assert ", ".join([*registry.family_names(), registry.AUTO]) in refused.err


def test_the_module_computes_what_it_says() -> None:
    mean, deviation = torch.full((3, 2, 2), 0.5), torch.full((3, 2, 2), 0.1)
    detector = PixelGaussian(mean, deviation, "rgb", 8)
    image = torch.full((1, 8, 8, 3), 0.5 * 255)
    assert float(detector(image)[0]) == pytest.approx(0, abs=1e-6)
    image[:, :4, :4] = 255
    score, anomaly_map = detector(image)
    assert score.shape == (1,)
    assert anomaly_map.shape == (8, 8)
    assert int(anomaly_map.argmax()) == 0
