"""The detector against SciPy in float64 and against its parts by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cmdiad_export.precision.casting import to_precision
from cmdiad_train.detectors.trd.blur import GaussianBlur
from cmdiad_train.detectors.trd.detector import ReverseDistillation
from cmdiad_train.detectors.trd.distance_map import cosine_distance, upsampling
from cmdiad_train.detectors.trd.networks.hallucinated import Hallucinated
from cmdiad_train.detectors.trd.networks.student import Student
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.recipe import PUBLISHED_TRD, Recipe, RgbExtractor, TrdRecipe

SIDE = 64
SCALES = torch.tensor([0.5, 2.0, 3.0])
MODALITIES = {"rd": "rgb", "mtfi-trd": "xyz", "trd": "both"}


@cache
def teacher() -> Teacher:
    return Teacher(RgbExtractor("resnet10t"), size=SIDE)


def student(seed: int, *, tuned: bool) -> Student:
    torch.manual_seed(seed)
    module = Student(teacher().shape, teacher().shape if tuned else None)
    features = [torch.rand(2, c, s, s) for c, s in zip(teacher().shape.channels, (16, 8, 4), strict=True)]
    module(features, features if tuned else None)  # gives BatchNorm statistics that are not those of an identity
    return module.eval()


def detector(variant: Any, kept: Tensor | None = None) -> ReverseDistillation:
    """Return an uncalibrated detector."""
    recipe = Recipe(TrdRecipe(variant=variant), modality=MODALITIES[variant], size=SIDE, view="sensor")  # type: ignore
    branches = [student(seed, tuned=variant != "rd") for seed in range(len(recipe.mains))]
    hallucinated = Hallucinated(student(7, tuned=True).projector_amply, SCALES) if variant == "mtfi-trd" else None
    return ReverseDistillation(recipe, teacher(), branches, hallucinated, kept)


def sample(module: ReverseDistillation, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = {
        "rgb": torch.randint(0, 256, (1, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8),
        "surface": 255 * torch.rand(1, SIDE, SIDE, 3, generator=generator),
    }
    return [image[name] for name in module.input_names]


def expected_map(student: Student, own: list[Tensor], other: list[Tensor] | None) -> npt.NDArray[np.float64]:
    """Return the map of a branch in float64, with the operators of torch."""
    total = np.zeros((SIDE, SIDE))
    for features, target in zip(student(own, other).fused, own, strict=True):
        cosine = F.cosine_similarity(features.double(), target.double())
        total += F.interpolate(1 - cosine[:, None], size=SIDE, mode="bilinear", align_corners=True)[0, 0].numpy()
    return total


@torch.no_grad()
@pytest.mark.parametrize("variant", MODALITIES)
def test_score_and_map_follow_the_definition(variant: str) -> None:
    module = detector(variant)
    inputs = sample(module)
    own = [teacher()(teacher().normalise(image)) for image in inputs]
    other: list[Any] = {"rd": [None], "trd": own[::-1]}.get(variant, [])
    if variant == "mtfi-trd":
        assert module.hallucinated is not None
        predicted = module.hallucinated.amplifier(own[0])
        other = [[scale * level for scale, level in zip(SCALES, predicted, strict=True)]]
    maps = [expected_map(*branch) for branch in zip(module.branches, own, other, strict=True)]  # type: ignore[arg-type]
    np.testing.assert_allclose(module.branch_maps(*inputs), np.stack(maps), rtol=0, atol=2e-5)
    deviation = torch.tensor([0.2, 0.7])[: len(maps)]
    module.calibrate(torch.full((len(maps),), 9.0), deviation)
    combined = sum(m / d for m, d in zip(maps, deviation.double().numpy(), strict=True))
    expected = gaussian_filter(combined, 4.0, mode="reflect", radius=16)
    score, anomaly_map = module(*inputs)
    assert score.shape == (1,)
    np.testing.assert_allclose(anomaly_map, expected, rtol=2e-5, atol=2e-4)
    assert float(score) == float(anomaly_map.max())


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_separate_views_have_separate_maps(masked: bool) -> None:
    kept = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    kept[0, 8:40, 16:48] = kept[1, :20] = not masked
    recipe = Recipe(TrdRecipe(), modality="both", size=SIDE, view="each")
    module = ReverseDistillation(recipe, teacher(), [student(seed, tuned=False) for seed in (0, 1)], None, kept)
    module.calibrate(torch.full((2,), 9.0), torch.tensor([0.2, 0.7]))
    inputs = sample(module)
    own = [teacher()(teacher().normalise(image)) for image in inputs]
    score, anomaly_map = module(*inputs)
    expected = []
    for branch, features, deviation, region in zip(module.branches, own, (0.2, 0.7), kept.numpy(), strict=True):
        calibrated = region * expected_map(branch, features, None) / deviation  # type: ignore[arg-type]
        expected.append(region * gaussian_filter(calibrated, 4.0, mode="reflect", radius=16))
    np.testing.assert_allclose(anomaly_map, np.stack(expected), rtol=2e-5, atol=2e-4)
    assert score.shape == (1,)
    assert float(score) == pytest.approx(sum(float(m.max()) for m in expected), rel=1e-4)


@torch.no_grad()
def test_only_a_faithful_recipe_subtracts_the_mean() -> None:
    plain = detector("trd")
    recipe = Recipe(
        replace(PUBLISHED_TRD, teacher=TrdRecipe().teacher), modality="both", size=SIDE, view="sensor", foreground=True
    )
    published = ReverseDistillation(recipe, plain.teacher, list(plain.branches))  # type: ignore[arg-type]
    mean, deviation = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.25])
    for module in (plain, published):
        module.calibrate(mean, deviation)
    (score, anomaly_map), (lower, lower_map) = plain(*sample(plain)), published(*sample(published))
    offset = float((mean / deviation).sum())
    torch.testing.assert_close(anomaly_map - offset, lower_map, rtol=0, atol=1e-4)
    assert float(score - lower) == pytest.approx(offset, abs=1e-4)
    assert float(anomaly_map.min()) >= 0


@torch.no_grad()
def test_ignored_pixels_take_no_part() -> None:
    kept = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    kept[:, :, 40:] = False
    module, whole = detector("rd", kept), detector("rd")
    maps = module.branch_maps(*sample(module))
    score, anomaly_map = module.fuse(maps)
    changed = maps.clone()
    changed[:, :, 40:] = 1000
    assert all(map(torch.equal, module.fuse(changed), (score, anomaly_map)))
    assert not anomaly_map[:, 40:].any()
    assert float(score) == float(anomaly_map[:, :40].max())
    torch.testing.assert_close(anomaly_map[:, :24], whole.fuse(maps)[1][:, :24])  # the blur reaches 16 pixels


@torch.no_grad()
def test_one_batch_of_both_inputs_gives_the_features_of_each() -> None:
    module = detector("trd")
    inputs = sample(module)
    for image, features in zip(inputs, module.features(*inputs), strict=True):
        for result, expected in zip(features, teacher()(teacher().normalise(image)), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_the_published_blur_is_that_of_scipy() -> None:
    image = np.random.default_rng(0).random((96, 96))
    blurred = GaussianBlur(96).double()(torch.from_numpy(image))
    np.testing.assert_allclose(blurred, gaussian_filter(image, 4.0, mode="reflect"), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("grid", "size"), [(4, 64), (10, 160), (56, 224)])
def test_upsampling_is_that_of_torch(grid: int, size: int) -> None:
    image = torch.rand(grid, grid, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = upsampling(grid, size).double()
    expected = F.interpolate(image[None, None], size=size, mode="bilinear", align_corners=True)[0, 0]
    torch.testing.assert_close(matrix @ image @ matrix.T, expected, rtol=0, atol=1e-6)


def test_distances_of_half_precision_features_have_single_precision_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (30 * torch.randn(1, 1024, 4, 4, generator=generator).abs().half() for _ in range(2))
    expected = 1 - F.cosine_similarity(a.double(), b.double())
    assert float((a.float() ** 2).sum(1).max()) > torch.finfo(torch.float16).max
    result = cosine_distance(a, b)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


def test_a_feature_of_zeros_is_far_from_everything() -> None:
    zeros, ones = torch.zeros(1, 8, 2, 2), torch.ones(1, 8, 2, 2)
    torch.testing.assert_close(cosine_distance(zeros, ones), torch.ones(1, 2, 2))
    torch.testing.assert_close(cosine_distance(zeros, zeros), torch.ones(1, 2, 2))


@torch.no_grad()
@pytest.mark.parametrize("variant", MODALITIES)
def test_networks_in_half_precision_keep_score_and_map(variant: str) -> None:
    module = detector(variant)
    reduced = to_precision(module, "fp16")
    for name in module.precision_parts().networks:
        assert {p.dtype for p in reduced.get_submodule(name).parameters()} == {torch.float16}
    score, anomaly_map = module(*sample(module))
    half_score, half_map = reduced(*sample(reduced))
    assert half_score.dtype == half_map.dtype == torch.float32
    torch.testing.assert_close(half_map, anomaly_map, rtol=0, atol=2e-3)
    assert float(half_score) == pytest.approx(float(score), abs=2e-3)


@torch.no_grad()
@pytest.mark.parametrize("variant", MODALITIES)
def test_each_step_of_precision_runs(variant: str) -> None:
    from cmdiad_export.precision.levels import fp16_levels

    module = detector(variant)
    expected = module(*sample(module))[1]
    levels = fp16_levels(module)
    assert [level.name for level in levels][-2:] == ["students", "teacher"]
    for level in levels:
        result = to_precision(module, "fp16", level)(*sample(module))[1]
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_inputs_follow_from_the_modality() -> None:
    names = {variant: detector(variant).input_names for variant in MODALITIES}
    assert names == {"rd": ["rgb"], "mtfi-trd": ["surface"], "trd": ["surface", "rgb"]}
