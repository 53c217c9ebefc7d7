"""Metrics against scikit-learn, against loops over every threshold, and against the published code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import roc_auc_score

from cmdiad_train.evaluation.metrics import ProMode, area_under_pro, au_pro, auroc, pixel_auroc, pro_curve, roc_curve
from golden import load


def random_set(seed: int, levels: int) -> tuple[Any, Any]:
    """Blobs touching at corners and edges, scores with ties (few levels) that lean towards the defects."""
    rng = np.random.default_rng(seed)
    masks = ndimage.zoom(rng.random((3, 6, 7)) < 0.2, (1, 2, 2), order=0)
    masks[0] = 0
    masks[1, 0, :3] = masks[2, -1, :3] = 1
    maps = rng.integers(0, levels, masks.shape) + masks * rng.integers(0, levels, masks.shape)
    return masks.astype(np.uint8), maps.astype(np.float32)


def brute_force_curve(masks: Any, maps: Any) -> tuple[Any, Any]:
    """The definition, threshold by threshold, mask by mask, with the strict comparison."""
    good = maps[masks == 0]
    points = []
    for threshold in [np.inf, *np.unique(maps)[::-1], -np.inf]:
        overlaps = []
        for mask, scores in zip(masks, maps, strict=True):
            regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
            overlaps += [(scores[regions == i] > threshold).mean() for i in range(1, count + 1)]
        points.append(((good > threshold).mean(), np.mean(overlaps)))
    return tuple(np.array(points).T)


def brute_force_area(fpr: Any, pro: Any, limit: float) -> float:
    area = 0.0
    for x0, x1, y0, y1 in zip(fpr, fpr[1:], pro, pro[1:], strict=False):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


@pytest.mark.parametrize("levels", [2, 7, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_auroc_is_that_of_scikit_learn(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 101)
    scores = rng.integers(0, levels, 101) + labels
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    assert auroc(labels.astype(bool), -scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-14)


def test_auroc_by_hand() -> None:
    assert auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == 0.75
    assert auroc(np.array([0, 1]), np.array([3.0, 3.0])) == 0.5
    assert auroc(np.array([0, 1]), np.array([3.0, np.inf])) == 1.0


@pytest.mark.parametrize(("label", "missing"), [(0, "defective"), (1, "good")])
def test_auroc_names_the_missing_class(label: int, missing: str) -> None:
    with pytest.raises(ValueError, match=f"none of the 3 labels is {missing}"):
        auroc(np.full(3, label), np.arange(3.0))


def test_pixel_auroc() -> None:
    masks, maps = random_set(0, 9)
    expected = roc_auc_score(masks.ravel(), maps.ravel())
    assert pixel_auroc(masks, maps) == pytest.approx(expected, abs=1e-14)
    assert pixel_auroc(masks * 255, maps) == pixel_auroc(masks, maps)


@pytest.mark.parametrize("levels", [1, 2, 5, 50, 100_000])
@pytest.mark.parametrize("seed", range(3))
def test_exact_pro_is_the_definition(seed: int, levels: int) -> None:
    masks, maps = random_set(seed, levels)
    expected = brute_force_curve(masks, maps)
    fpr, pro = pro_curve(masks, maps)
    assert fpr.size == np.unique(maps).size + 1
    assert (fpr[0], pro[0], fpr[-1], pro[-1]) == (0, 0, 1, 1)
    np.testing.assert_allclose(fpr, expected[0][1:], atol=1e-12)
    np.testing.assert_allclose(pro, expected[1][1:], atol=1e-12)
    for limit in (0.01, 0.05, 0.3, 1.0):
        assert au_pro(masks, maps, limit) == pytest.approx(brute_force_area(*expected, limit), abs=1e-12)


@pytest.mark.parametrize("levels", [3, 10_000])
def test_roc_curve_is_that_of_scikit_learn(levels: int) -> None:
    rng = np.random.default_rng(levels)
    labels = rng.integers(0, 2, 80)
    scores = rng.integers(0, levels, 80) + labels
    expected = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    for found, reference in zip(roc_curve(labels * 255, scores), expected, strict=False):
        np.testing.assert_allclose(found, reference, atol=1e-15)


def test_one_curve_serves_all_limits() -> None:
    masks, maps = random_set(3, 10_000)
    curve = pro_curve(masks, maps)
    for limit in (0.3, 0.1, 0.05, 0.01):
        assert area_under_pro(*curve, limit) == au_pro(masks, maps, limit)
    with pytest.raises(ValueError, match="limit"):
        area_under_pro(*curve, 0.0)


def test_limit_on_a_vertical_step() -> None:
    """FPR stands at 0.5 while the overlap jumps from 0 to 1: the jump lies beyond the limit."""
    masks = np.array([[[0, 0, 1, 1]]])
    maps = np.array([[[4.0, 1.0, 2.0, 2.0]]])
    assert au_pro(masks, maps, 0.5) == 0.0
    assert au_pro(masks, maps, 1.0) == pytest.approx(0.5)


def test_regions_weigh_alike_and_touch_by_corners_within_one_mask_only() -> None:
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[0, 0, 0] = masks[0, 1, 1] = 1  # one region of two pixels
    masks[1, 1, 1] = 1  # another, at the same place of the next mask
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 0] = 1.0  # half of the first region
    _, pro = pro_curve(masks, maps)
    assert pro.tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("mode", ["exact", "published"])
def test_perfect_and_useless_maps(mode: ProMode) -> None:
    masks, _ = random_set(1, 2)
    ranking = np.random.default_rng(0).random(masks.shape)
    assert au_pro(masks, masks + ranking, mode=mode) == pytest.approx(1.0)
    assert au_pro(masks, ranking - 2.0 * masks, mode=mode) == pytest.approx(0.0, abs=1e-12)


def test_published_pro_approaches_the_exact_one() -> None:
    masks, maps = random_set(2, 100_000)
    assert au_pro(masks, maps, mode="published") == pytest.approx(au_pro(masks, maps), abs=0.02)
    assert au_pro(masks, maps, mode="published") != au_pro(masks, maps)


def test_published_thresholds_with_ties_are_strict() -> None:
    masks = np.array([[[0] * 10 + [1, 1]]])
    maps = np.array([[[1.0] * 10 + [1.0, 2.0]]])
    fpr, pro = pro_curve(masks, maps, mode="published")
    assert fpr.size == 101 and fpr[0] == 0.0
    assert pro[:-1].tolist() == [0.5] * 100 and pro[-1] == 1.0


def test_errors() -> None:
    masks, maps = random_set(0, 3)
    with pytest.raises(ValueError, match="all masks are alike"):
        au_pro(np.zeros_like(masks), maps)
    with pytest.raises(ValueError, match="all masks are alike"):
        au_pro(np.ones_like(masks), maps)
    with pytest.raises(ValueError, match="one shape"):
        pixel_auroc(masks[:2], maps)
    with pytest.raises(ValueError, match="n, h, w"):
        au_pro(masks[0], maps[0])
    with pytest.raises(ValueError, match="NaN"):
        au_pro(masks, np.where(masks, np.nan, maps))
    for limit in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="limit"):
            au_pro(masks, maps, limit)


@pytest.mark.golden
def test_published_mode_is_the_published_code() -> None:
    recorded = load("small_cases")
    masks, maps = recorded["pro_gt"], recorded["pro_pred"]
    fpr, pro = pro_curve(masks, maps, mode="published")
    np.testing.assert_array_equal(fpr, recorded["pro_curve_fpr"])
    np.testing.assert_array_equal(pro, recorded["pro_curve_pro"])
    assert au_pro(masks, maps, 0.3, mode="published") == recorded["pro_03"]
    assert au_pro(masks, maps, 0.01, mode="published") == recorded["pro_001"]


@pytest.mark.golden
def test_metrics_are_those_of_published_reverse_distillation() -> None:
    recorded = load("trd_metrics")
    masks, maps = recorded["gt"], recorded["pred"]
    labels, scores = masks.max((1, 2)), maps.max((1, 2))
    assert auroc(labels, scores) == pytest.approx(float(recorded["image_auroc"]), abs=1e-12)
    assert pixel_auroc(masks, maps) == pytest.approx(float(recorded["pixel_auroc"]), abs=1e-12)
    fpr, pro = pro_curve(masks, maps, mode="published")
    np.testing.assert_allclose(fpr, recorded["pro_fpr"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(pro, recorded["pro_pro"], rtol=0, atol=1e-12)
    areas = [area_under_pro(fpr, pro, limit) for limit in recorded["limits"]]
    np.testing.assert_allclose(areas, recorded["au_pro"], rtol=0, atol=1e-12)
