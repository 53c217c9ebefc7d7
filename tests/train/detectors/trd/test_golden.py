"""Parity with the published networks, losses, optimiser steps and maps (shared/golden/README_TRD.md)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

import golden
from cmdiad_runtime.names import Modality
from cmdiad_train.detectors.trd.detector import ReverseDistillation
from cmdiad_train.recipe import PUBLISHED_TRD, Recipe
from lanes import long
from published_students import (
    PREFIXES,
    SIDE,
    Arrays,
    Branch,
    Size,
    check_adam,
    check_losses,
    features,
    loss_terms,
    student,
    teacher,
)

pytestmark = pytest.mark.golden

EVERY: dict[Size, int] = {"r18": 1, "wrn50": 8}
"""Distance between the channels that the arrays contain."""
TRAINING, VALIDATION, TEST = slice(0, 2), (2, 3), 4
BOTH_SIZES = ["r18", long("wrn50")]
BRANCHES: tuple[Branch, Branch] = ("rgb", "geo")


def adam() -> Arrays:
    arrays = golden.load("trd_adam_r18")
    return {**arrays, "adam_param_names": arrays["param_names"]}


def test_weights_follow_the_formula() -> None:
    inputs = golden.load("trd_inputs")
    parts = {
        "trd.teacher.encoder.": teacher("r18").backbone.model,
        **{PREFIXES[branch]: student("r18", branch) for branch in BRANCHES},
    }
    for key, first, norm in zip(inputs["check_keys"], inputs["check_first2"], inputs["check_norm_r18"], strict=True):
        prefix = next(prefix for prefix in parts if key.startswith(prefix))
        value = parts[prefix].state_dict()[key.removeprefix(prefix)].double()
        np.testing.assert_array_equal(value.flatten()[:2], first)
        assert float(value.norm()) == pytest.approx(norm, rel=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("size", BOTH_SIZES)
@pytest.mark.parametrize("branch", BRANCHES)
def test_features_of_teacher_and_student(size: Size, branch: Branch) -> None:
    arrays, module = golden.load(f"trd_{size}_{branch}"), student(size, branch)
    own, other = features(size, branch, golden.load("trd_inputs"), slice(TEST, TEST + 1))
    outputs = module(own, other)
    computed = {
        "t": own,
        "filter": outputs.filtered,
        "amplifier": outputs.amplified,
        "raw": outputs.raw,
        "fused": outputs.fused,
    }
    for name, levels in computed.items():
        for number, level in enumerate(levels, start=1):
            assert_close(level[0, :: EVERY[size]], arrays[f"{name}_{number}"])
            assert float(level.double().norm()) == pytest.approx(float(arrays[f"norm_{name}_{number}"]), rel=2e-5)
    assert_close(outputs.bottleneck[0], arrays["bottleneck"])
    assert float(outputs.bottleneck.double().norm()) == pytest.approx(float(arrays["norm_bottleneck"]), rel=2e-5)
    scalars = torch.stack([module.decoder.get_parameter(name) for name in ("w_c", "w_b", "w_a")])
    np.testing.assert_array_equal(scalars, arrays["level_scalars"])
    np.testing.assert_allclose(module.decoder.level_weights(), arrays["level_weights"], rtol=0, atol=1e-6)


def assert_close(values: Tensor, expected: npt.NDArray[np.float32]) -> None:
    np.testing.assert_allclose(values, expected, rtol=0, atol=2e-5 * abs(expected).max())


@pytest.mark.parametrize("recorded", [torch.float64, torch.float32])
@pytest.mark.parametrize(("size", "mode"), [("r18", "eval"), ("r18", "train"), long("wrn50", "eval")])
@pytest.mark.parametrize("branch", BRANCHES)
def test_loss_terms_and_gradients(size: Size, mode: str, branch: Branch, recorded: torch.dtype) -> None:
    module = student(size, branch).double().train(mode == "train")
    batch = features(size, branch, golden.load("trd_inputs"), TRAINING, torch.float64)
    check_losses(golden.load(f"trd_losses_{size}"), f"{size}_{mode}_{branch}", module, *batch, recorded)


@torch.no_grad()
@pytest.mark.parametrize("branch", BRANCHES)
def test_losses_in_single_precision(branch: Branch) -> None:
    terms = loss_terms(student("r18", branch), *features("r18", branch, golden.load("trd_inputs"), TRAINING))
    np.testing.assert_allclose(terms, golden.load("trd_losses_r18")[f"r18_eval_{branch}_terms"], rtol=0, atol=3e-6)


@pytest.mark.parametrize("recorded", [torch.float64, torch.float32])
def test_three_steps_of_adam(recorded: torch.dtype) -> None:
    batch = features("r18", "rgb", golden.load("trd_inputs"), TRAINING, torch.float64)
    check_adam(adam(), student("r18", "rgb").double(), *batch, recorded)


def test_images_are_normalised_as_published() -> None:
    recorded = golden.load("trd_preproc")
    depth = 255 * np.repeat(recorded["rgbd_depth"][0][..., None], 3, axis=2)
    for image, name, tolerance in ((recorded["rgb_resized_u8"], "rgb_input", 1e-6), (depth, "rgbd_input", 5e-6)):
        values = teacher("r18").normalise(torch.from_numpy(image)[None])
        np.testing.assert_allclose(values[0], recorded[name], rtol=0, atol=tolerance)


def network_inputs(inputs: Arrays, sample: int) -> list[Tensor]:
    """Return the inputs of the detector of both modalities, `[1, 64, 64, 3]` each."""
    return [torch.from_numpy(inputs[f"{branch}_u8"][sample]).permute(1, 2, 0)[None] for branch in ("geo", "rgb")]


@pytest.mark.parametrize("size", BOTH_SIZES)
def test_maps_calibration_and_score(size: Size) -> None:
    arrays, inputs = golden.load(f"trd_maps_{size}"), golden.load("trd_inputs")
    recipe = Recipe(PUBLISHED_TRD, modality="both", size=SIDE, view="sensor")
    detector = ReverseDistillation(recipe, teacher(size), [student(size, branch) for branch in ("geo", "rgb")])
    assert detector.input_names == ["surface", "rgb"]
    maps = {sample: detector.branch_maps(*network_inputs(inputs, sample)) for sample in (*VALIDATION, TEST)}
    for row, sample in enumerate(maps):
        expected = np.stack([arrays["map_geo"][row], arrays["map_rgb"][row]])
        np.testing.assert_allclose(maps[sample], expected, rtol=0, atol=3e-6)
    good = torch.stack([maps[sample] for sample in VALIDATION], 1).double().flatten(1)
    mean, deviation = good.mean(1), good.std(1, correction=0)
    calibration = [mean[1], deviation[1], mean[0], deviation[0]]
    np.testing.assert_allclose(calibration, arrays["calibration"], rtol=0, atol=3e-6)
    detector.calibrate(mean, deviation)
    score, anomaly_map = detector(*network_inputs(inputs, TEST))
    np.testing.assert_allclose(anomaly_map, arrays["test_smoothed"], rtol=0, atol=3e-4)
    assert float(score) == pytest.approx(float(arrays["test_score"]), abs=3e-4)
    detector.blur = torch.nn.Identity()  # type: ignore[assignment]
    np.testing.assert_allclose(detector.fuse(maps[TEST])[1], arrays["test_combined"], rtol=0, atol=3e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", BOTH_SIZES)
@pytest.mark.parametrize("branch", BRANCHES)
def test_maps_of_one_branch(size: Size, branch: Branch) -> None:
    """Each level alone, and map and score of a detector of this branch alone."""
    arrays, inputs = golden.load(f"trd_maps_{size}"), golden.load("trd_inputs")
    modality: Modality = "rgb" if branch == "rgb" else "xyz"
    recipe = Recipe(replace(PUBLISHED_TRD, variant="rd"), modality=modality, size=SIDE, view="sensor")
    detector = ReverseDistillation(recipe, teacher(size), [student(size, branch)])
    own, other = features(size, branch, inputs, slice(TEST, TEST + 1))
    fused = detector.branches[0](own, other).fused
    for level, expected in enumerate(arrays[f"test_levels_{branch}"]):
        alone = [*own[:level], fused[level], *own[level + 1 :]]
        np.testing.assert_allclose(detector.distance(alone, own)[0], expected, rtol=0, atol=3e-6)
    first = 2 * BRANCHES.index(branch)
    mean, deviation = torch.from_numpy(arrays["calibration"][first : first + 2])[:, None]
    detector.calibrate(mean, deviation)
    score, anomaly_map = detector.fuse(detector.distance(fused, own))
    np.testing.assert_allclose(anomaly_map, arrays[f"test_smoothed_{branch}"], rtol=0, atol=3e-4)
    expected_score = float(arrays["test_scores_branches"][BRANCHES.index(branch)])
    assert float(score) == pytest.approx(expected_score, abs=3e-4)
