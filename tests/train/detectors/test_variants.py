"""Every variant of the paper, and ours, from training to a verdict with its own modality alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from cmdiad_runtime.cli.run import cli
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.inspection.inputs import list_inputs, read_sample
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.recipe import Recipe, RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.run import load_run
from helpers import SIZE, SMALL, changed, command, make_data, python, sample_files, tiny_recipe
from lanes import long, some

POINT_VARIANTS = [
    ("rgb", "none"),
    ("xyz", "none"),
    ("both", "none"),
    ("rgb", "f2f"),
    ("xyz", "f2f"),
    ("rgb", "f2i"),
    ("xyz", "f2i"),
    ("rgb", "i2f"),
    ("xyz", "i2f"),
]
DEFAULT_VARIANTS = [("both", "none"), ("xyz", "f2f"), ("xyz", "i2f")]
"""Both sensors, a network from features and one from the input. The long lane has every network from each sensor."""
POINTS = {"centers", "groups", "weights", "cells"}
NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
POINT_BERT = replace(tiny_recipe("xyz").detector.xyz, network="point_bert")
SURFACE_VARIANTS = [
    ("rgb", "none", "part"),
    ("xyz", "none", "top"),
    ("both", "none", "part"),
    ("both", "none", "top"),
    ("rgb", "f2f", "part"),
    ("xyz", "f2f", "sensor"),
    ("xyz", "f2f", "top"),
    ("rgb", "f2i", "part"),
    ("xyz", "f2i", "sensor"),
    ("rgb", "i2f", "sensor"),
    ("xyz", "i2f", "top"),
]
"""Every network in one view at least, every view with one and two sensors and with networks."""


def check_single_modality(bundle: Path, data: Path, tmp_path: Path, modality: str) -> None:
    """Inspect a test split from which the other modality's files are gone, and whose reader would say so."""
    own = Path(shutil.copytree(data, tmp_path / "single"))
    others = {"rgb": ["xyz"], "xyz": ["rgb"], "both": []}[modality]
    for other in others:
        for folder in own.rglob(other):
            shutil.rmtree(folder)
    with Inspector.open(bundle, OpenOptions(modality=modality)) as inspector:  # type: ignore[arg-type]
        files = list_inputs([own / "gear" / "test"], modality)  # type: ignore[arg-type]
        size = inspector.bundle.preprocessing.size
        assert size in (SIZE, SMALL)
        assert len(files) == 5
        for file in files:
            sample = read_sample(file, inspector.bundle.preprocessing)
            assert all(getattr(sample, other) is None for other in others)
            inspection = inspector.inspect(sample)
            assert np.isfinite(inspection.score)
            assert inspection.map.shape == (size, size)
    ended = command(cli, bundle, own / "gear" / "test", "--modality", modality, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 5


def expected_inputs(modality: str, hallucination: str, points: bool) -> set[str]:
    xyz = POINTS if points else {"surface"}
    inputs = {"rgb": {"rgb"}, "xyz": set(xyz), "both": {"rgb", *xyz}}[modality]
    if points and modality == "xyz" and hallucination == "i2f":
        inputs.add("xyz")
    return inputs


@pytest.mark.parametrize(("modality", "hallucination"), some(POINT_VARIANTS, DEFAULT_VARIANTS))
def test_variant_trains_exports_and_inspects_with_its_own_modality_alone(
    data: Path, exported: Any, tmp_path: Path, modality: str, hallucination: str
) -> None:
    bundle = exported(modality, hallucination)
    check_single_modality(bundle, data, tmp_path, modality)
    session = onnxruntime.InferenceSession(bundle / "graph.onnx")
    assert {i.name for i in session.get_inputs()} == expected_inputs(modality, hallucination, True)


@pytest.mark.parametrize(("modality", "hallucination", "view"), some(SURFACE_VARIANTS, [("xyz", "f2f", "sensor")]))
def test_surface_images_take_the_place_of_points(
    data: Path, exported: Any, tmp_path: Path, modality: str, hallucination: str, view: str
) -> None:
    bundle = exported(modality, hallucination, xyz=NORMALS, view=view)
    check_single_modality(bundle, data, tmp_path, modality)
    session = onnxruntime.InferenceSession(bundle / "graph.onnx")
    assert {i.name for i in session.get_inputs()} == expected_inputs(modality, hallucination, False)


@pytest.mark.parametrize("precision", ["fp32", long("fp16")])
def test_each_modality_in_its_own_view_trains_exports_and_inspects(
    data: Path, exported: Any, tmp_path: Path, precision: str
) -> None:
    bundle = exported("both", "none", precision, xyz=NORMALS, view="each")
    check_single_modality(bundle, data, tmp_path, "both")
    outputs = {o.name: o.shape for o in onnxruntime.InferenceSession(bundle / "graph.onnx").get_outputs()}
    assert outputs == {"map": [2, 112, 112]}
    ended = command(cli, bundle, "--self-test")
    assert ended.code == 0, ended.err


def test_each_view_is_that_of_the_modality_alone(trained: Any) -> None:
    both = load_run(trained("both", xyz=NORMALS, view="each"))
    for search, modality, view in zip(both.detector.searches, ("xyz", "rgb"), ("top", "part"), strict=True):
        alone = load_run(trained(modality, xyz=NORMALS, view=view)).detector
        assert torch.equal(search.rows, alone.searches[0].rows)


def test_each_view_needs_both_and_normals() -> None:
    for modality, xyz in (("rgb", NORMALS), ("xyz", NORMALS), ("both", tiny_recipe().detector.xyz)):
        with pytest.raises(RunError, match="recipe view"):
            tiny_recipe(modality, xyz=xyz, view="each")


def test_plan_view_needs_a_cloud_seen_as_normals() -> None:
    for modality, xyz in (
        ("rgb", NORMALS),
        ("xyz", tiny_recipe().detector.xyz),
        ("both", replace(NORMALS, image="depth")),
    ):
        with pytest.raises(RunError, match="recipe view"):
            tiny_recipe(modality, xyz=xyz, view="top")


def test_few_components_and_the_plain_maximum_survive_the_export(exported: Any) -> None:
    bundle = exported("xyz", "f2f", components=8, image_score="max")
    graph = json.loads((bundle / "manifest.json").read_text())["graph"]
    assert [columns for _, columns in graph["banks"]] == [8, 8]


@pytest.mark.long
@pytest.mark.parametrize("xyz", [replace(NORMALS, image="depth"), POINT_BERT], ids=["depth", "point_bert"])
def test_other_extractor_of_clouds_trains_and_exports(data: Path, exported: Any, tmp_path: Path, xyz: Any) -> None:
    check_single_modality(exported("xyz", "none", xyz=xyz), data, tmp_path, "xyz")


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "hallucination"), some(POINT_VARIANTS, [("both", "none"), ("xyz", "f2f")]))
def test_variant_exports_in_fp16(exported: Any, modality: str, hallucination: str) -> None:
    manifest_of = exported(modality, hallucination, "fp16") / "manifest.json"
    assert '"fp16"' in manifest_of.read_text()


TRAIN_TWICE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.fit.fit import fit
from helpers import tiny_recipe
hashes = []
for time in ("first", "again"):
    run = Path(sys.argv[3]) / time
    fit(Path(sys.argv[2]), "gear", tiny_recipe("xyz", sys.argv[4]), run)
    hashes.append([sha256_of(run / f"{name}.safetensors") for name in ("banks", "hallucination")])
print(hashes[0] == hashes[1])
"""


@pytest.mark.long
@pytest.mark.parametrize("hallucination", ["f2f", "i2f"])  # F2I's convolutions round differently now and then
def test_one_seed_one_result(data: Path, tmp_path: Path, hallucination: str) -> None:
    """In a process of its own."""
    assert python(TRAIN_TWICE, Path(__file__).parents[2], data, tmp_path, hallucination).strip() == "True"


@pytest.mark.parametrize(("modality", "hallucination"), [("xyz", "f2f"), long("rgb", "f2i"), ("xyz", "i2f")])
def test_hallucinated_bank_adds_to_the_main_one(trained: Any, modality: str, hallucination: str) -> None:
    """The main bank of a detector with hallucination is that of the detector without."""
    run = load_run(trained(modality, hallucination))
    alone, detector = load_run(trained(modality, size=run.recipe.size)).detector, run.detector
    assert torch.equal(detector.searches[0].rows, alone.searches[0].rows)
    assert len(detector.searches) == 2
    assert len(detector.searches[1].rows) >= 3


def test_both_holds_the_banks_of_each(trained: Any) -> None:
    both = load_run(trained("both")).detector
    for search, modality in zip(both.searches, ("xyz", "rgb"), strict=True):
        assert torch.equal(search.rows, load_run(trained(modality)).detector.searches[0].rows)


def test_both_hallucinates_nothing() -> None:
    with pytest.raises(RunError, match="hallucination"):
        tiny_recipe("both", "f2f")


@pytest.mark.parametrize("xyz", [tiny_recipe().detector.xyz, NORMALS])
def test_recipe_survives_json(xyz: Any) -> None:
    recipe = tiny_recipe("xyz", "i2f", xyz=xyz)
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.fixture(scope="module")
def two_categories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("two") / "parts", categories=["gear", "biscuit"], train=4, validation=2)


def test_joint_network_is_trained_once_and_taken_over(two_categories: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("rgb", "f2f")
    joint = changed(recipe, distillation=replace(recipe.detector.distillation, categories=("biscuit", "gear")))
    first = fit(two_categories, "gear", joint, tmp_path / "gear")
    fit(two_categories, "gear", recipe, tmp_path / "alone")
    fit(two_categories, "biscuit", joint, tmp_path / "biscuit", options=FitOptions(network_from=tmp_path / "gear"))

    def network(run: str) -> str:
        return sha256_of(tmp_path / run / "hallucination.safetensors")

    assert first.status == "complete"
    assert network("biscuit") == network("gear") != network("alone")
    assert load_run(tmp_path / "biscuit").record.network_from == network("gear")
    assert sha256_of(tmp_path / "biscuit" / "banks.safetensors") != sha256_of(tmp_path / "gear" / "banks.safetensors")


def test_network_of_another_recipe_is_refused(two_categories: Path, trained: Any, tmp_path: Path) -> None:
    for hallucination, source, words in (
        ("i2f", trained("rgb", "f2f"), "another hallucination"),
        ("f2f", trained("rgb"), "no distillation network"),
    ):
        recipe, run = tiny_recipe("rgb", hallucination), tmp_path / hallucination
        with pytest.raises(RunError, match=words):
            fit(two_categories, "gear", recipe, run, options=FitOptions(network_from=source))


def test_missing_partner_of_a_pair_is_named(data: Path, exported: Any, tmp_path: Path) -> None:
    own = Path(shutil.copytree(data, tmp_path / "own"))
    cloud = sample_files(own, "test", "good", "xyz")[0]
    cloud.unlink()
    ended = command(cli, exported("both"), own / "gear" / "test" / "good", "--modality", "both")
    assert ended.code == 3
    assert cloud.stem in ended.err


def test_cut_out_view_needs_an_image() -> None:
    for modality, hallucination, xyz in (("xyz", "none", NORMALS), ("rgb", "f2f", tiny_recipe().detector.xyz)):
        with pytest.raises(RunError, match="recipe view"):
            tiny_recipe(modality, hallucination, xyz=xyz, view="part")
