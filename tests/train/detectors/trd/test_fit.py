"""Trainings of all variants on the tiny data set: files, resumption, masks, and inspection with one sensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.detectors.trd.fitting import students
from cmdiad_train.detectors.trd.networks.hallucinated import Hallucinated
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.recipe import Recipe, RgbExtractor, TrdRecipe
from cmdiad_train.runs.run import load_run
from cmdiad_train.training.machine import Machine
from helpers import RecordingReporter, flip_byte
from reporters import InterruptAt
from runs import assert_whole, hashes

VARIANTS = [("trd", "both"), ("rd", "rgb"), ("rd", "xyz"), ("mtfi-trd", "rgb"), ("mtfi-trd", "xyz"), ("mtfi-rd", "rgb")]
PART = TrdRecipe(
    teacher=RgbExtractor("test_resnet", (0, 1, 2), None),
    epochs=2,
    batch=3,
    fine_tune_epochs=2,
    distil_epochs=2,
)
FitVariant = Callable[..., Path]


def recipe(variant: str, modality: str, **changes: Any) -> Recipe:
    """A recipe that trains in seconds."""
    part = replace(PART, variant=variant, **changes)  # type: ignore[arg-type]
    return Recipe(part, modality=modality, size=64, view="sensor")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> FitVariant:
    """`fitted(variant, modality)`: a finished run, trained once."""
    folder = tmp_path_factory.mktemp("trd")

    def train(variant: str, modality: str) -> Path:
        run = folder / f"{variant}-{modality}"
        if not run.exists():
            fit(data, None, recipe(variant, modality), run)
        return run

    return train


@pytest.mark.parametrize(("variant", "modality"), VARIANTS)
def test_a_run_keeps_what_inspection_needs(fitted: FitVariant, variant: str, modality: str) -> None:
    run = fitted(variant, modality)
    names = {name for name in hashes(run) if name.endswith(".safetensors")}
    students = {"student-rgb.safetensors", "student-xyz.safetensors"} if modality == "both" else {f"student-{modality}.safetensors"}
    own = {"teacher.safetensors", *students} | ({"hallucination.safetensors"} if variant == "mtfi-trd" else set())
    assert names == own | {"golden.safetensors", "held_out.safetensors", "quantisation.safetensors"}
    assert not (run / "stages").exists()
    loaded = load_run(run)
    assert len(loaded.calibration.held_out_scores) == 3
    assert all(score > 0 for score in loaded.calibration.held_out_scores)
    sensors = {"rgb", "xyz"} if modality == "both" or variant.startswith("mtfi") else {modality}
    assert set(loaded.record.provenance) == sensors
    assert loaded.record.provenance[next(iter(sensors))]["extractor"].startswith("test_resnet, random weights")
