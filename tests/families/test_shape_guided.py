"""Shape-Guided detectors go through all commands with the 3D sensor alone and with both sensors, and resume."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from cmdiad_export import cli as export
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.cli import train
from cmdiad_train.datasets import open_category
from cmdiad_train.detectors import network_training
from cmdiad_train.detectors.shape_guided.options import OPTIONS
from cmdiad_train.detectors.shape_guided.preprocessing import make_preprocessing, preferred_view
from cmdiad_train.detectors.shape_guided.recipe_options import recipe_from
from cmdiad_train.fit.fit import fit
from cmdiad_train.fit.views import learn_view
from cmdiad_train.recipe import PUBLISHED_SHAPE_GUIDED, PUBLISHED_SHAPE_GUIDED_RGB, Recipe, ShapeGuidedRecipe
from cmdiad_train.runs.run import load_run
from helpers import assert_refused, command, tiny_shape_guided_recipe, write_cloud
from lanes import long
from reporters import InterruptAt
from runs import assert_whole, hashes

Trained = Callable[[str], Path]
MODES = ("default", "faithful")
COMMAND = ("--family", "shape-guided", "--modality", "xyz")
MODALITIES = (long("xyz"), "both")


@pytest.fixture(scope="module", params=MODALITIES)
def modality(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_run_keeps_what_inspection_needs(modality: str, trained_shape_guided: Trained) -> None:
    run, guided = trained_shape_guided(modality), modality == "both"
    names = {name for name in hashes(run) if name.endswith(".safetensors")}
    inputs = {f"{name}.safetensors" for name in ("golden", "held_out", "quantisation")}
    own = {"shape-network.safetensors", "memory.safetensors"} | ({"image-network.safetensors"} if guided else set())
    assert names == own | inputs
    loaded = load_run(run)
    assert loaded.detector.input_names == ["patches", "cover", *(["rgb"] if guided else [])]
    assert len(loaded.calibration.held_out_scores) == 3
    assert set(loaded.record.provenance) == {"xyz", *(["rgb"] if guided else [])}
    assert Recipe.from_json(json.loads(json.dumps(loaded.recipe.to_json()))) == loaded.recipe


@pytest.mark.parametrize(("modality", "precision"), [("both", "fp32"), long("both", "fp16"), long("xyz", "fp16")])
def test_bundles_are_certified_and_inspect_what_the_modality_names(
    modality: str, precision: str, trained_shape_guided: Trained, data: Path, tmp_path: Path
) -> None:
    """An export in fp16 certifies the fp32 graph first."""
    bundle = tmp_path / "shape.cmdiad"
    ended = command(export.cli, trained_shape_guided(modality), "--precision", precision, "--out", bundle)
    assert ended.code == 0, ended.err
    comparisons = json.loads((bundle / "manifest.json").read_text())["certificate"]["comparisons"]
    assert [one["precision"] for one in comparisons] == ["fp32"] + ["fp16"] * (precision == "fp16")
    assert all(one["passed"] for one in comparisons)
    assert command(run_cli.cli, bundle, "--self-test").code == 0
    operators = {node.op_type for node in ir.load(bundle / "graph.onnx").graph}
    assert not operators & {"Loop", "Scan", "If", "NonZero", "ScatterElements", "ScatterND"}
    for name, kind in itertools.product(("good", "empty"), ("rgb", "xyz") if modality == "both" else ("xyz",)):
        (tmp_path / name / kind).mkdir(parents=True)
        shutil.copy(next((data / "gear/test/good" / kind).glob("000.*")), tmp_path / name / kind)
    write_cloud(tmp_path / "empty/xyz/000.tiff", np.zeros((112, 112, 3), dtype=np.float32))
    lines = []
    for name in ("good", "empty"):
        command(run_cli.cli, bundle, tmp_path / name, "--output", tmp_path / f"{name}-out")
        lines += (tmp_path / f"{name}-out" / "results.jsonl").read_text().splitlines()
    good, empty = map(json.loads, lines)
    assert good["score"] > 0
    assert (empty["verdict"], empty["score"]) == ("NG", None)


@pytest.mark.long
def test_an_interrupted_training_ends_with_the_same_files(
    modality: str, data: Path, trained_shape_guided: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    again, recipe = tmp_path / "again", tiny_shape_guided_recipe(modality)
    steps = [("cut patches", 2), ("train shape network", 1), ("encode patches", 1)]
    if modality == "both":
        steps += [("memorise images", 1), ("align image and cloud", 2)]
    for step, done in steps:
        with pytest.raises(KeyboardInterrupt):
            fit(data, None, recipe, again, InterruptAt(step, done))
        assert_whole(again)
    fit(data, None, recipe, again)
    assert hashes(again) == hashes(trained_shape_guided(modality))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--modality", "rgb"), ("modality", "both, because the cloud of the inspected part")),
        (("--modality", "both", "--view", "each"), ("view", "sensor or top")),
        (("--modality", "both", "--view", "part"), ("view", "sensor or top")),
    ],
)
def test_impossible_options_end_in_one_line(
    data: Path, tmp_path: Path, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    ended = command(train.cli, data, *COMMAND, *options, "--out", tmp_path / "run")
    assert_refused(ended, 7, *words)
    assert not (tmp_path / "run").exists()


def test_the_published_settings_are_one_option() -> None:
    values = {str(option.name): None for option in OPTIONS}
    default, faithful = (recipe_from({**values, "modality": "xyz", "mode": mode}, list) for mode in MODES)
    assert (default.detector, default.size, default.verdict) == (ShapeGuidedRecipe(), 112, "map")
    assert (preferred_view(default), faithful.view) == (("top", ""), "sensor")
    assert (faithful.detector, faithful.size, faithful.verdict) == (PUBLISHED_SHAPE_GUIDED, 224, "image")
    settings = make_preprocessing(faithful, "rgb", "xyz")
    both = recipe_from({**values, "modality": "both", "mode": "faithful"}, list)
    assert both.detector == replace(PUBLISHED_SHAPE_GUIDED, rgb=PUBLISHED_SHAPE_GUIDED_RGB)
    assert (settings.xyz_feed, settings.groups, settings.group_size, settings.coverage) == ("patches", 512, 500, 10)


def test_image_and_patches_show_the_part_from_above(data: Path) -> None:
    recipe = tiny_shape_guided_recipe("both", patches=160, patch_points=64)
    samples = open_category(data, "gear").usable("train", ("rgb", "xyz")).samples[:2]
    assert preferred_view(replace(recipe, view="auto")) == ("top", "")
    settings = learn_view("top", samples, make_preprocessing(recipe, "rgb", "both"), SILENT)
    prepared = prepare(samples[0].read("rgb"), settings)
    assert set(prepared.inputs) == {"patches", "cover", "rgb"}
    shown, drawn = prepared.inputs["cover"][0].any(axis=2), prepared.inputs["rgb"][0].any(axis=2)
    assert np.array_equal(shown, drawn), "one view of both"
    assert 0.2 < shown.mean() < 0.9
    anomaly_map = np.zeros(shown.shape, dtype=np.float32)
    anomaly_map[np.argwhere(shown)[len(np.argwhere(shown)) // 2][0]] = 1
    assert prepared.to_sensor(anomaly_map).max() > 0.5, "the map is moved over the picture of the sensor"


@pytest.mark.long
def test_parts_are_turned_upright_by_default(data: Path, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", tiny_shape_guided_recipe("both", patches=160, patch_points=64)
    fit(data, None, replace(recipe, view="auto"), run)
    loaded = load_run(run)
    assert loaded.preprocessing.view == loaded.recipe.view == "top"
    bundle = tmp_path / "top.cmdiad"
    ended = command(export.cli, run, "--out", bundle)
    assert ended.code == 0, ended.err
    ended = command(run_cli.cli, bundle, data / "gear/test", "--output", tmp_path / "out")
    assert ended.code in (0, 1, 2), ended.err
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert len(results) == 5 and all(result["score"] > 0 for result in results)
