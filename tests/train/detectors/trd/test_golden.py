"""Parity with the published networks, losses, optimiser steps and maps (shared/golden/README_TRD.md)."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

import golden
from cmdiad_train.detectors.trd.detector import ReverseDistillation
from cmdiad_train.detectors.trd.losses import flat_cosine, student_loss
from cmdiad_train.detectors.trd.networks.student import Student, StudentOutputs
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.recipe import IMAGENET_MEAN, IMAGENET_STD, PUBLISHED_TRD, Recipe, RgbExtractor

pytestmark = pytest.mark.golden

Size = Literal["r18", "wrn50"]
Branch = Literal["rgb", "geo"]
Features = list[Tensor]

SIDE = 64
BACKBONES: dict[Size, str] = {"r18": "resnet18", "wrn50": "wide_resnet50_2"}
EVERY: dict[Size, int] = {"r18": 1, "wrn50": 8}
"""Distance between the channels that the arrays contain."""
PREFIXES: dict[Branch, str] = {"rgb": "trd.student_rgb.", "geo": "trd.student_depth."}
OTHER: dict[Branch, Branch] = {"rgb": "geo", "geo": "rgb"}
TRAINING, VALIDATION, TEST = slice(0, 2), (2, 3), 4


@cache
def teacher(size: Size) -> Teacher:
    module = Teacher(RgbExtractor(BACKBONES[size]), size=SIDE)
    golden.fill(module.backbone.model, "trd.teacher.encoder.")
    return module


@cache
def teacher_features(size: Size, branch: Branch, dtype: torch.dtype = torch.float32) -> Features:
    """Return the teacher's features of all five samples."""
    images = torch.from_numpy(golden.load("trd_inputs")[f"{branch}_u8"]).to(dtype) / 255
    mean, deviation = (torch.tensor(v, dtype=dtype)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    module = teacher(size).to(dtype)
    try:
        with torch.no_grad():
            features: Features = module((images - mean) / deviation)
    finally:
        module.float()
    return features


def student(size: Size, branch: Branch) -> Student:
    module = Student(teacher(size).shape, teacher(size).shape).eval()
    golden.fill(module, PREFIXES[branch])
    return module


def at(features: Features, samples: slice) -> Features:
    return [level[samples] for level in features]


def outputs_of(module: Student, size: Size, branch: Branch, samples: slice) -> StudentOutputs:
    dtype = next(module.parameters()).dtype
    own, other = (at(teacher_features(size, b, dtype), samples) for b in (branch, OTHER[branch]))
    return module(own, other)


def terms_of(module: Student, size: Size, branch: Branch) -> dict[str, Tensor]:
    target = at(teacher_features(size, branch, next(module.parameters()).dtype), TRAINING)
    return student_loss(outputs_of(module, size, branch, TRAINING), target, "flat")


def in_order(terms: dict[str, Any]) -> list[Any]:
    return [terms[name] for name in ("raw", "filtered", "amplified", "fused")]


def test_weights_follow_the_formula() -> None:
    inputs = golden.load("trd_inputs")
    parts = {
        "trd.teacher.encoder.": teacher("r18").backbone.model,
        **{prefix: student("r18", branch) for branch, prefix in PREFIXES.items()},
    }
    for key, first, norm in zip(inputs["check_keys"], inputs["check_first2"], inputs["check_norm_r18"], strict=True):
        prefix = next(prefix for prefix in parts if key.startswith(prefix))
        value = parts[prefix].state_dict()[key.removeprefix(prefix)].double()
        np.testing.assert_array_equal(value.flatten()[:2], first)
        assert float(value.norm()) == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("size", [pytest.param("r18"), pytest.param("wrn50", marks=pytest.mark.slow)])
@pytest.mark.parametrize("branch", ["rgb", "geo"])
def test_features_of_teacher_and_student(size: Size, branch: Branch) -> None:
    arrays, module = golden.load(f"trd_{size}_{branch}"), student(size, branch)
    with torch.no_grad():
        outputs = outputs_of(module, size, branch, slice(TEST, TEST + 1))
    results = {
        "t": at(teacher_features(size, branch), slice(TEST, TEST + 1)),
        "filter": outputs.filtered,
        "amplifier": outputs.amplified,
        "raw": outputs.raw,
        "fused": outputs.fused,
    }
    for name, levels in results.items():
        for level, features in enumerate(levels, start=1):
            assert_close(features[0, :: EVERY[size]], arrays[f"{name}_{level}"])
            assert float(features.double().norm()) == pytest.approx(float(arrays[f"norm_{name}_{level}"]), rel=2e-5)
    assert_close(outputs.bottleneck[0], arrays["bottleneck"])
    np.testing.assert_allclose(module.decoder.level_weights().detach(), arrays["level_weights"], rtol=0, atol=1e-6)


def assert_close(features: Tensor, expected: npt.NDArray[np.float32]) -> None:
    np.testing.assert_allclose(features, expected, rtol=0, atol=2e-5 * abs(expected).max())


@pytest.mark.parametrize(
    ("size", "mode"), [("r18", "eval"), ("r18", "train"), pytest.param("wrn50", "eval", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("branch", ["rgb", "geo"])
def test_loss_terms_and_gradients(size: Size, mode: str, branch: Branch) -> None:
    arrays, key = golden.load(f"trd_losses_{size}"), f"{size}_{mode}_{branch}"
    module = student(size, branch).double().train(mode == "train")
    target = at(teacher_features(size, branch, torch.float64), TRAINING)
    outputs = outputs_of(module, size, branch, TRAINING)
    levels = [
        [flat_cosine([a], [b]).item() for a, b in zip(features, target, strict=True)]
        for features in (outputs.raw, outputs.filtered, outputs.amplified, outputs.fused)
    ]
    np.testing.assert_allclose(levels, arrays[f"{key}_levels_f64"], rtol=0, atol=1e-10)
    terms = in_order(student_loss(outputs, target, "flat"))
    np.testing.assert_allclose([term.item() for term in terms], arrays[f"{key}_terms_f64"], rtol=0, atol=1e-10)
    parameters = [module.get_parameter(name) for name in arrays["param_names"]]
    norms = [gradients(term, parameters) for term in (*terms, sum(terms))]
    expected = arrays[f"{key}_gradnorm_f64"]
    np.testing.assert_allclose([[g.norm().item() for g in row] for row in norms], expected, rtol=1e-8, atol=1e-12)
    scalars = {name: g for name, g in zip(arrays["param_names"], norms[-1], strict=True) if ".w_" in name}
    by_level = torch.stack([scalars[f"decoder.{name}"] for name in ("w_c", "w_b", "w_a")])
    np.testing.assert_allclose(by_level, arrays[f"{key}_grad_w_f64"], rtol=1e-8, atol=1e-12)


def gradients(loss: Tensor, parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    """Return the gradient of each parameter, zeros for those that the loss does not depend on."""
    results = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, results, strict=True)]


def test_losses_in_single_precision() -> None:
    module = student("r18", "rgb")
    with torch.no_grad():
        terms = in_order(terms_of(module, "r18", "rgb"))
    np.testing.assert_allclose(terms, golden.load("trd_losses_r18")["r18_eval_rgb_terms"], rtol=0, atol=3e-6)


def assert_equal_to_a_millionth(values: Any, expected: npt.NDArray[np.float64]) -> None:
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=0)


def test_three_steps_of_adam() -> None:
    arrays, module = golden.load("trd_adam_r18"), student("r18", "rgb").double().train()
    start = {name: module.get_parameter(name).detach().clone() for name in arrays["param_names"]}
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3, betas=(0.5, 0.999))
    for step in range(3):
        terms = in_order(terms_of(module, "r18", "rgb"))
        assert_equal_to_a_millionth([term.item() for term in terms], arrays["terms_f64"][step])
        optimiser.zero_grad()
        sum(terms).backward()
        optimiser.step()
        parameters = {name: module.get_parameter(name).detach() for name in start}
        norms = [float(parameter.norm()) for parameter in parameters.values()]
        moved = [float((parameter - start[name]).norm()) for name, parameter in parameters.items()]
        running = [float(module.get_buffer(name).norm()) for name in arrays["running_names"]]
        decoder = module.decoder
        scalars = torch.stack([decoder.w_c, decoder.w_b, decoder.w_a]).detach()
        assert_equal_to_a_millionth(norms, arrays["param_norm_f64"][step])
        assert_equal_to_a_millionth(moved, arrays["delta_norm_f64"][step])
        assert_equal_to_a_millionth(running, arrays["running_norm_f64"][step])
        assert_equal_to_a_millionth(scalars, arrays["level_scalars_f64"][step])
    with torch.no_grad():
        after = in_order(terms_of(module, "r18", "rgb"))
        evaluated = in_order(terms_of(module.eval(), "r18", "rgb"))
    assert_equal_to_a_millionth(after, arrays["terms_f64"][3])
    assert_equal_to_a_millionth(evaluated, arrays["terms_eval_after_f64"])


@pytest.mark.parametrize("size", [pytest.param("r18"), pytest.param("wrn50", marks=pytest.mark.slow)])
def test_maps_calibration_and_score(size: Size) -> None:
    arrays, inputs = golden.load(f"trd_maps_{size}"), golden.load("trd_inputs")
    recipe = Recipe(PUBLISHED_TRD, modality="both", size=SIDE, view="sensor")
    branches: dict[str, Branch] = {"rgb": "rgb", "surface": "geo"}
    detector = ReverseDistillation(recipe, teacher(size), [student(size, b) for b in ("geo", "rgb")])
    assert detector.input_names == ["surface", "rgb"]

    def network_inputs(sample: int) -> list[Tensor]:
        images = (inputs[f"{branches[name]}_u8"][sample] for name in detector.input_names)
        return [torch.from_numpy(image).permute(1, 2, 0)[None] for image in images]

    maps = {sample: detector.branch_maps(*network_inputs(sample)) for sample in (*VALIDATION, TEST)}
    for row, sample in enumerate(maps):
        expected = np.stack([arrays["map_geo"][row], arrays["map_rgb"][row]])
        np.testing.assert_allclose(maps[sample], expected, rtol=0, atol=3e-6)
    good = torch.stack([maps[sample] for sample in VALIDATION], 1).double().flatten(1)
    mean, deviation = good.mean(1), good.std(1, correction=0)
    calibration = [mean[1], deviation[1], mean[0], deviation[0]]
    np.testing.assert_allclose(calibration, arrays["calibration"], rtol=0, atol=3e-6)
    detector.calibrate(mean, deviation)
    score, anomaly_map = detector(*network_inputs(TEST))
    np.testing.assert_allclose(anomaly_map, arrays["test_smoothed"], rtol=0, atol=3e-4)
    assert float(score) == pytest.approx(float(arrays["test_score"]), abs=3e-4)
