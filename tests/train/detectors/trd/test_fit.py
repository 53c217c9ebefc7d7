"""Trainings of all variants on the tiny data set: files, resumption, masks, and inspection with one sensor."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors import network_training
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.runs.run import load_run
from cmdiad_train.training import loop
from cmdiad_train.training.machine import Machine
from helpers import RecordingReporter, flip_byte
from helpers import tiny_trd_recipe as recipe
from lanes import long
from reporters import InterruptAt
from runs import assert_whole, hashes

VARIANTS = [("trd", "both"), ("rd", "both"), ("rd", "rgb"), ("mtfi-trd", "xyz"), ("mtfi-rd", "rgb")]
FitVariant = Callable[..., Path]


@pytest.mark.parametrize(("variant", "modality"), VARIANTS)
def test_a_run_keeps_what_inspection_needs(fitted: FitVariant, variant: str, modality: str) -> None:
    run = fitted(variant, modality)
    names = {name for name in hashes(run) if name.endswith(".safetensors")}
    own = {"teacher.safetensors", *(f"student-{main}.safetensors" for main in recipe(variant, modality).mains)}
    own |= {"hallucination.safetensors"} if variant == "mtfi-trd" else set()
    assert names == own | {"golden.safetensors", "held_out.safetensors", "quantisation.safetensors"}
    assert not (run / "stages").exists()
    loaded = load_run(run)
    assert len(loaded.calibration.held_out_scores) == 3
    assert all(score > 0 for score in loaded.calibration.held_out_scores)
    sensors = {"rgb", "xyz"} if modality == "both" or variant.startswith("mtfi") else {modality}
    assert set(loaded.record.provenance) == sensors
    assert loaded.record.provenance[next(iter(sensors))]["extractor"].startswith("test_resnet, random weights")


@pytest.mark.parametrize(
    ("variant", "modality", "points"),
    [
        long("trd", "both", [("extract xyz features", 2), ("train xyz student", 1)]),
        (
            "mtfi-rd",
            "rgb",
            [
                ("train rgb student", 1),
                ("train rgb student", 2),
                ("train xyz student", 1),
                ("compute hallucinated xyz features", 1),
                ("fine-tune rgb student", 1),
                ("compute fused hallucinated features", 3),
                ("distil rgb student", 1),
                ("calibrate branches", 2),
                ("calibrate threshold", 1),
            ],
        ),
    ],
    ids=["trd", "mtfi-rd"],
)
def test_a_training_that_is_interrupted_again_and_again_ends_with_the_same_files(
    data: Path,
    fitted: FitVariant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    modality: str,
    points: list[tuple[str, int]],
) -> None:
    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    run = tmp_path / "run"
    for step, done in points:
        with pytest.raises(KeyboardInterrupt):
            fit(data, None, recipe(variant, modality), run, InterruptAt(step, done))
        assert_whole(run)
    assert fit(data, None, recipe(variant, modality), run).status == "complete"
    assert hashes(run) == hashes(fitted(variant, modality))


def test_inspection_with_one_sensor_reads_no_file_of_the_other(
    fitted: FitVariant, own_data: Path, tmp_path: Path
) -> None:
    for split in ("validation", "test"):
        for folder in (own_data / "gear" / split).glob("*/rgb"):
            shutil.rmtree(folder)
    fit(own_data, None, recipe("mtfi-trd", "xyz"), tmp_path / "run")
    assert hashes(tmp_path / "run") == hashes(fitted("mtfi-trd", "xyz"))
    loaded = load_run(tmp_path / "run")
    assert loaded.preprocessing.modalities == ("xyz",)
    assert loaded.detector.input_names == ["surface"]


def test_scores_of_a_loaded_run_are_those_of_the_training(fitted: FitVariant) -> None:
    for variant, modality in VARIANTS:
        loaded = load_run(fitted(variant, modality))
        sample = next(sample for sample in loaded.golden if not sample.tampered)
        score, anomaly_map = loaded.detector(*(sample.inputs[name] for name in loaded.detector.input_names))
        assert float(score) == pytest.approx(loaded.calibration.held_out_scores[0], rel=1e-5)
        assert float(anomaly_map.max()) == pytest.approx(float(score))


def test_a_small_cache_changes_nothing_but_the_time(
    data: Path, fitted: FitVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PACE_STEPS", 1)
    monkeypatch.setattr(loop, "LONG_SECONDS", 0)
    reporter, run = RecordingReporter(), tmp_path / "run"
    options = FitOptions(machine=Machine(cache_gb=1e-6))
    fit(data, None, recipe("mtfi-rd", "rgb"), run, reporter, options)
    assert hashes(run) == hashes(fitted("mtfi-rd", "rgb"))
    assert sum("computed again in every epoch" in line for line in reporter.lines) == 5
    expected = [line.split(" epochs take ") for line in reporter.lines if " epochs take " in line]
    number = recipe("mtfi-rd", "rgb").detector.epochs
    names = ["train rgb student", "train xyz student", "fine-tune rgb student", "distil rgb student"]
    assert [before for before, _ in expected] == [f"{name}: {number}" for name in names]
    following = [re.findall(r"with (\d more networks?)", after) for _, after in expected]
    assert following == [["3 more networks"], ["2 more networks"], ["1 more network"], []]


def test_features_are_shared_through_the_store(data: Path, fitted: FitVariant, tmp_path: Path) -> None:
    store = tmp_path / "features"
    fit(data, None, recipe("rd", "rgb"), tmp_path / "first", options=FitOptions(features=store))
    before = {path: path.stat().st_ino for path in store.glob("??/*.safetensors")}
    assert len(before) == 6
    fit(data, None, recipe("rd", "rgb", distance="pixel"), tmp_path / "second", options=FitOptions(features=store))
    assert {path: path.stat().st_ino for path in store.glob("??/*.safetensors")} == before
    assert hashes(tmp_path / "first") == hashes(fitted("rd", "rgb"))


@pytest.mark.failure_mode("A training whose loss is infinite or not a number")
def test_a_training_that_diverges_ends_in_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="smaller --learning-rate"):
        fit(data, None, recipe("rd", "rgb", learning_rate=1e30, mode="faithful", patience=0), tmp_path / "run")
    assert not (tmp_path / "run" / "calibration.json").exists()


def test_damaged_files_of_a_run_are_named(fitted: FitVariant, tmp_path: Path) -> None:
    for name in ("teacher.safetensors", "student-xyz.safetensors", "hallucination.safetensors", "branches.json"):
        run = Path(shutil.copytree(fitted("mtfi-trd", "xyz"), tmp_path / name))
        flip_byte(run / name, 4)
        with pytest.raises(RunError, match=name):
            load_run(run)


def test_separate_students_are_those_of_the_modalities_alone(fitted: FitVariant) -> None:
    both = hashes(fitted("rd", "both"))
    for modality in ("rgb", "xyz"):
        name = f"student-{modality}.safetensors"
        assert both[name] == hashes(fitted("rd", modality))[name]


def test_separate_views_of_image_and_cloud_need_separate_students() -> None:
    assert replace(recipe("rd", "both"), view="each").view == "each"
    with pytest.raises(RunError, match="recipe view.*--variant rd"):
        replace(recipe("trd", "both"), view="each")
