"""A Shape-Guided detector goes through all commands with the 3D sensor alone, and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from cmdiad_export import cli as export
from cmdiad_runtime.cli import run as run_cli
from cmdiad_train.cli import train
from cmdiad_train.detectors import network_training
from cmdiad_train.detectors.shape_guided.options import OPTIONS
from cmdiad_train.detectors.shape_guided.preprocessing import make_preprocessing
from cmdiad_train.detectors.shape_guided.recipe_options import recipe_from
from cmdiad_train.fit.fit import fit
from cmdiad_train.recipe import PUBLISHED_SHAPE_GUIDED, Recipe, ShapeGuidedRecipe
from cmdiad_train.runs.run import load_run
from helpers import assert_refused, command, tiny_shape_guided_recipe, write_cloud
from reporters import InterruptAt
from runs import assert_whole, hashes

MODES = ("default", "faithful")
COMMAND = ("--family", "shape-guided", "--modality", "xyz")


@pytest.fixture(scope="module")
def bundle(trained_shape_guided: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An fp16 bundle. Its export certifies the fp32 graph first."""
    out = tmp_path_factory.mktemp("bundles") / "shape.cmdiad"
    ended = command(export.cli, trained_shape_guided, "--precision", "fp16", "--out", out)
    assert ended.code == 0, ended.err
    return out


def test_a_run_keeps_what_inspection_needs(trained_shape_guided: Path) -> None:
    names = {name for name in hashes(trained_shape_guided) if name.endswith(".safetensors")}
    inputs = {f"{name}.safetensors" for name in ("golden", "held_out", "quantisation")}
    assert names == {"shape-network.safetensors", "memory.safetensors"} | inputs
    loaded = load_run(trained_shape_guided)
    assert loaded.detector.input_names == ["patches", "cover"]
    assert len(loaded.calibration.held_out_scores) == 3
    assert set(loaded.record.provenance) == {"xyz"}
    assert Recipe.from_json(json.loads(json.dumps(loaded.recipe.to_json()))) == loaded.recipe


def test_both_precisions_are_certified_and_inspect_without_an_image(
    bundle: Path, trained_shape_guided: Path, data: Path, tmp_path: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    single, reduced = manifest["certificate"]["comparisons"]
    assert (single["precision"], reduced["precision"]) == ("fp32", "fp16")
    assert single["passed"] and reduced["passed"]
    assert command(run_cli.cli, bundle, "--self-test").code == 0
    operators = {node.op_type for node in ir.load(bundle / "graph.onnx").graph}
    assert not operators & {"Loop", "Scan", "If", "NonZero", "ScatterElements", "ScatterND"}
    for name in ("good", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "good/000.tiff").write_bytes((data / "gear/test/good/xyz/000.tiff").read_bytes())
    write_cloud(tmp_path / "empty/000.tiff", np.zeros((112, 112, 3), dtype=np.float32))
    lines = []
    for name in ("good", "empty"):
        command(run_cli.cli, bundle, tmp_path / name, "--output", tmp_path / f"{name}-out")
        lines += (tmp_path / f"{name}-out" / "results.jsonl").read_text().splitlines()
    good, empty = map(json.loads, lines)
    assert good["score"] > 0
    assert (empty["verdict"], empty["score"]) == ("NG", None)


def test_an_interrupted_training_ends_with_the_same_files(
    data: Path, trained_shape_guided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    again, recipe = tmp_path / "again", tiny_shape_guided_recipe()
    for step, done in (("cut patches", 2), ("train shape network", 1), ("encode patches", 1)):
        with pytest.raises(KeyboardInterrupt):
            fit(data, None, recipe, again, InterruptAt(step, done))
        assert_whole(again)
    fit(data, None, recipe, again)
    assert hashes(again) == hashes(trained_shape_guided)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--modality", "rgb"), ("modality", "xyz")),
        (("--view", "top"), ("view", "sensor")),
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
    assert (faithful.detector, faithful.size, faithful.verdict) == (PUBLISHED_SHAPE_GUIDED, 224, "image")
    settings = make_preprocessing(faithful, "rgb", "xyz")
    assert (settings.xyz_feed, settings.groups, settings.group_size, settings.coverage) == ("patches", 512, 500, 10)
