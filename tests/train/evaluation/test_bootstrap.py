"""Intervals against resamples that are really drawn, and the histograms against the exact figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cmdiad_train.evaluation.bootstrap import (
    draw_counts,
    image_auroc_interval,
    mean_auroc_interval,
    pixel_histograms,
    pixel_intervals,
    pixel_metrics,
)
from cmdiad_train.evaluation.metrics import au_pro, auroc, pixel_auroc

LIMITS = (0.3, 0.1, 0.05, 0.01)


def pixel_set(seed: int, *, levels: int | None) -> tuple[Any, Any]:
    """Five good and five defective samples 64×64; smooth scores, or whole numbers with many ties."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((10, 64, 64), dtype=bool)
    for i, mask in enumerate(masks[5:]):
        row, column = rng.integers(0, 50, 2)
        mask[row : row + 4 + i, column : column + 6] = True
        mask[63 - i, 58:] = True
    if levels is not None:
        return masks, rng.integers(0, levels, masks.shape) + masks * rng.integers(0, 2, masks.shape)
    noise = ndimage.gaussian_filter(rng.standard_normal(masks.shape), (0, 2, 2))
    seen = ndimage.gaussian_filter(masks.astype(float), (0, 1, 1)) * rng.random((10, 1, 1))
    return masks, (noise + seen).astype(np.float32)


def repeated(counts: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """The resample itself: every sample as often as it was drawn."""
    times = counts.astype(int)
    return np.repeat(first, times, axis=0), np.repeat(second, times, axis=0)


def brute_force_interval(figures: list[float]) -> tuple[float, float]:
    return float(np.percentile(figures, 2.5)), float(np.percentile(figures, 97.5))


def test_image_interval_is_that_of_drawn_resamples() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [9, 14])
    scores = rng.integers(0, 12, labels.size) + 3 * labels  # with ties
    drawn = [repeated(counts, labels, scores) for counts in draw_counts(labels != 0, 200)]
    expected = brute_force_interval([auroc(*arrays) for arrays in drawn])
    found = image_auroc_interval(labels, scores, resamples=200)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found is not None
    assert found[0] < auroc(labels, scores) < found[1]


def test_interval_of_several_scorings_resamples_the_samples_together() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [9, 14])
    scorings = rng.integers(0, 12, (3, labels.size)) + 3 * labels
    drawn = [
        np.mean([auroc(*repeated(counts, labels, scores)) for scores in scorings])
        for counts in draw_counts(labels != 0, 200)
    ]
    expected = brute_force_interval([float(value) for value in drawn])
    assert mean_auroc_interval(labels, scorings, resamples=200) == pytest.approx(expected, abs=1e-12)


def test_each_kind_is_drawn_among_itself_and_alike() -> None:
    defect = np.arange(12) % 3 == 0
    counts = draw_counts(defect, 3000)
    assert (counts[:, defect].sum(axis=1) == 4).all()
    assert (counts[:, ~defect].sum(axis=1) == 8).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.1)
    np.testing.assert_array_equal(counts, draw_counts(defect, 3000))
    assert (counts != draw_counts(defect, 3000, seed=1)).any()


@pytest.mark.parametrize("seed", range(3))
def test_histograms_are_exact_with_a_bin_for_each_score(seed: int) -> None:
    """Few levels: every resample's figures are those of the metrics on the resample itself, to rounding."""
    masks, maps = pixel_set(seed, levels=6)
    check_resamples(masks, maps, tolerance=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_histograms_of_smooth_maps_are_within_tolerance(seed: int) -> None:
    masks, maps = pixel_set(seed, levels=None)
    check_resamples(masks, maps, tolerance=1e-3)


def check_resamples(masks: Any, maps: Any, *, tolerance: float) -> None:
    counts = np.concatenate([np.ones((1, len(maps))), draw_counts(masks.any(axis=(1, 2)), 5)])
    aurocs, areas = pixel_metrics(pixel_histograms(masks, maps), counts, LIMITS)
    assert areas.shape == (6, len(LIMITS))
    for taken, found, found_areas in zip(counts, aurocs, areas, strict=True):
        drawn = repeated(taken, masks, maps)
        assert found == pytest.approx(pixel_auroc(*drawn), abs=tolerance)
        expected = [au_pro(*drawn, limit) for limit in LIMITS]
        np.testing.assert_allclose(found_areas, expected, atol=tolerance)


def test_few_bins_are_coarser() -> None:
    """The tolerance above is not met by chance."""
    masks, maps = pixel_set(0, levels=None)
    _, areas = pixel_metrics(pixel_histograms(masks, maps, bins=8), np.ones((1, 10)), (0.3,))
    assert abs(areas[0, 0] - au_pro(masks, maps, 0.3)) > 1e-2


def test_pixel_intervals_are_those_of_drawn_resamples() -> None:
    masks, maps = pixel_set(4, levels=6)
    drawn = [repeated(counts, masks, maps) for counts in draw_counts(masks.any(axis=(1, 2)), 60)]
    found = pixel_intervals(masks, maps, LIMITS, resamples=60)
    assert found is not None
    assert found[0] == pytest.approx(brute_force_interval([pixel_auroc(*arrays) for arrays in drawn]), abs=1e-12)
    for limit, interval in zip(LIMITS, found[1], strict=True):
        expected = brute_force_interval([au_pro(*arrays, limit) for arrays in drawn])
        assert interval == pytest.approx(expected, abs=1e-12)


def test_all_resamples_are_used_whatever_the_batches() -> None:
    masks, maps = pixel_set(5, levels=None)
    histograms, counts = pixel_histograms(masks, maps), draw_counts(masks.any(axis=(1, 2)), 123)
    together = pixel_metrics(histograms, counts, LIMITS)
    alone = [pixel_metrics(histograms, counts[i : i + 1], LIMITS) for i in range(123)]
    np.testing.assert_allclose(together[0], np.concatenate([a for a, _ in alone]), atol=1e-12)
    np.testing.assert_allclose(together[1], np.concatenate([a for _, a in alone]), atol=1e-12)


def test_nothing_is_said_of_fewer_than_two() -> None:
    masks, maps = pixel_set(6, levels=None)
    assert pixel_intervals(masks[:6], maps[:6], LIMITS) is None
    assert pixel_intervals(masks[4:], maps[4:], LIMITS) is None
    assert image_auroc_interval(np.array([0, 0, 1]), np.arange(3.0)) is None
    assert image_auroc_interval(np.array([0, 1, 1]), np.arange(3.0)) is None
    assert image_auroc_interval(np.array([0, 0, 1, 1]), np.arange(4.0)) == (1.0, 1.0)


def test_a_wrong_limit_is_refused() -> None:
    masks, maps = pixel_set(7, levels=6)
    with pytest.raises(ValueError, match="limit"):
        pixel_intervals(masks, maps, (0.3, 1.5))
