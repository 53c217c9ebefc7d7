"""The plain published inference against our own faithful detector, and its parts against the product's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cmdiad_runtime.preprocess.cloud.points import farthest_point_sampling, group_points
from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_runtime.readers import read_rgb, read_xyz
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.preprocessing import make_preprocessing
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.extractors import PointMae
from cmdiad_train.recipe import RgbExtractor, XyzExtractor
from helpers import sample_files
from studies import published as plain
from studies.comparison.contenders import load_published, save_published
from studies.comparison.parts import Paired, Parts, Setup, build_parts

RGB = RgbExtractor("test_vit", (), None, "seeded")
XYZ = XyzExtractor("point_mae", 64, 16, 24, 2, 3, (0, 1), "batch", "seeded", 14)
EXPANDED = 0.02
"""Score and map, relative: the published interpolation weights are off by up to 2 % (method §18.6)."""
LEVEL = 1 / 255
"""One level of the published blur, of the map's maximum."""


def small_setup(main: str, hallucination: str = "f2f") -> Setup:
    return Setup(main, hallucination, RGB, XYZ, 112, 150, 220)  # type: ignore[arg-type]


def good(data: Path) -> list[Sample]:
    """Training samples, for banks."""
    rgb, xyz = (sample_files(data, "train", "good", modality) for modality in ("rgb", "xyz"))
    return [Sample(str(a), rgb=read_rgb(a), xyz=read_xyz(b)) for a, b in zip(rgb, xyz, strict=True)]


def samples(data: Path) -> list[Sample]:
    files = zip(
        [p for kind in ("good", "hole") for p in sample_files(data, "test", kind, "rgb")],
        [p for kind in ("good", "hole") for p in sample_files(data, "test", kind, "xyz")],
        strict=True,
    )
    return [Sample(str(rgb), rgb=read_rgb(rgb), xyz=read_xyz(xyz)) for rgb, xyz in files]


@pytest.fixture(scope="module", params=["rgb", "xyz"])
def built(request: pytest.FixtureRequest, data: Path) -> tuple[Parts, list[Paired]]:
    return build_parts(small_setup(request.param), samples(data), good(data), SILENT)


@torch.no_grad()
def ours(parts: Parts, sample: Sample) -> tuple[float, np.ndarray]:
    detector = parts.detector("faithful")
    inputs = as_tensors(prepare(sample, make_preprocessing(parts.setup.recipe("faithful"), "rgb")).inputs)
    score, anomaly_map = detector(*(inputs[name] for name in detector.input_names))
    return float(score), anomaly_map.numpy()


def test_prediction_is_that_of_the_faithful_detector(built: tuple[Parts, list[Paired]]) -> None:
    parts, paired = built
    published = parts.published()
    tolerance = 1e-4 if parts.setup.main == "rgb" else EXPANDED
    for each in paired:
        found = published.predict(each.rgb, each.xyz)
        score, anomaly_map = ours(parts, each.sample)
        assert found.score == pytest.approx(score, rel=tolerance)
        assert found.map.shape == (112, 112)
        np.testing.assert_allclose(found.map, anomaly_map, atol=(tolerance + 4 * LEVEL) * anomaly_map.max())
        assert set(found.stages_ms) == {"extract", "geometry", "hallucination", "search", "scoring"}
        assert min(found.stages_ms.values()) > 0


def test_scores_tell_samples_apart(built: tuple[Parts, list[Paired]]) -> None:
    parts, paired = built
    scores = [parts.published().predict(each.rgb, each.xyz).score for each in paired]
    assert len({round(score, 6) for score in scores}) == len(scores)


def test_both_extractors_run_whichever_modality_is_missing(
    built: tuple[Parts, list[Paired]], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, paired = built
    ran = []
    tokens, features = type(parts.rgb).tokens, plain.group_features
    monkeypatch.setattr(type(parts.rgb), "tokens", lambda self, image: ran.append("rgb") or tokens(self, image))
    monkeypatch.setattr(plain, "group_features", lambda *given: ran.append("xyz") or features(*given))
    parts.published().predict(paired[0].rgb, paired[0].xyz)
    assert sorted(ran) == ["rgb", "xyz"]


def test_a_process_of_its_own_gets_the_same(built: tuple[Parts, list[Paired]], tmp_path: Path) -> None:
    parts, paired = built
    save_published(parts, tmp_path / "published")
    found = load_published(tmp_path / "published").predict(paired[0].rgb, paired[0].xyz)
    expected = parts.published().predict(paired[0].rgb, paired[0].xyz)
    assert found.score == expected.score
    np.testing.assert_array_equal(found.map, expected.map)


def cloud(count: int = 700, seed: int = 0) -> Tensor:
    points = 0.02 * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return points + torch.tensor([0.0, 0.0, 0.5])


@pytest.mark.parametrize("seed", range(3))
def test_sampling_and_groups_are_the_runtimes(seed: int) -> None:
    points = cloud(seed=seed)
    picks = plain.farthest_points(points, 60)
    assert np.array_equal(picks, farthest_point_sampling(points.numpy(), 60))
    found = plain.nearest_points(points, points[picks], 12)
    expected = group_points(points.numpy(), points[picks].numpy(), 12)
    assert np.array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))


@torch.no_grad()
def test_group_features_are_point_maes() -> None:
    model = PointMae(XYZ, seed=3)
    points = cloud()
    centers = points[:64]
    groups = points[plain.nearest_points(points, centers, 16)] - centers[:, None]
    torch.testing.assert_close(
        plain.group_features(model, centers, groups), model(centers[None], groups[None])[0], rtol=1e-4, atol=1e-4
    )


def test_interpolation_is_by_inverse_squared_distance() -> None:
    points = cloud() - torch.tensor([0.0, 0.0, 0.5])  # near the origin the expansion loses nothing
    centers, features = points[::10], torch.randn(70, 5, generator=torch.Generator().manual_seed(1))
    squared = (points.double()[:, None] - centers.double()[None]).square().sum(2)
    nearest, index = squared.topk(3, largest=False)
    weight = 1 / (nearest + 1e-8)
    expected = ((weight / weight.sum(1, keepdim=True))[:, :, None] * features.double()[index]).sum(1)
    np.testing.assert_allclose(plain.interpolated(points, centers, features), expected, atol=2e-3)


def test_search_and_reweighting_are_the_scorers() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(90, 24, generator=generator), torch.randn(49, 24, generator=generator)
    scorer = BankScorer(MemoryBank.from_rows(bank, 0.0, 1.0), grid=7, size=56, published_blur=True)
    distance, index = plain.nearest_rows(queries, bank)
    score, anomaly_map = scorer(queries, torch.arange(49))
    assert plain.reweighted_score(queries, bank, distance, index) == pytest.approx(float(score), rel=1e-5)
    found = plain.blurred(plain.upsampled(distance, 56))
    np.testing.assert_allclose(found, anomaly_map, atol=1.01 * LEVEL * float(anomaly_map.max()))
