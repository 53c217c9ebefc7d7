"""The summary of a test split and the mean over classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.evaluation.evaluate import METRICS, PRO_LIMITS, collect, mean_over_classes, summarise
from cmdiad_train.evaluation.metrics import au_pro, auroc, pixel_auroc
from helpers import write_image

DEFECTS = np.array(["good"] * 4 + ["hole"] * 3 + ["stain"] * 3)


def outcomes(seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((10, 16, 16), dtype=bool)
    masks[4:, 3:7, 5:9] = True
    maps = (rng.random(masks.shape) + 0.5 * masks).astype(np.float32)
    scores = rng.random(10) + (DEFECTS != "good")
    return scores, masks, maps


def test_summary_is_the_metrics() -> None:
    scores, masks, maps = outcomes()
    found = summarise(DEFECTS, scores, masks, maps)
    labels = DEFECTS != "good"
    assert (found["samples"], found["good"], found["without_mask"]) == (10, 4, 0)
    assert found["image_auroc"] == auroc(labels, scores)
    assert found["pixel_auroc"] == pixel_auroc(masks, maps)
    for name, limit in PRO_LIMITS.items():
        assert found[name] == au_pro(masks, maps, limit)
    stain = [i for i, defect in enumerate(DEFECTS) if defect in ("good", "stain")]
    assert found["image_auroc_by_defect"]["stain"] == auroc(labels[stain], scores[stain])
    assert set(found["image_auroc_by_defect"]) == {"hole", "stain"}
    assert set(found["intervals"]) == set(METRICS)
    for metric, (low, high) in found["intervals"].items():
        assert 0.0 <= low <= high <= 1.0
        assert low - 1e-3 <= found[metric] <= high + 1e-3
    assert json.loads(json.dumps(found)) == found


def test_samples_without_a_mask_count_in_the_image_figures_alone() -> None:
    scores, masks, maps = outcomes()
    known = np.ones(10, dtype=bool)
    known[5:7] = False
    masks[5:7] = False  # as read for a sample without a mask file
    found = summarise(DEFECTS, scores, masks, maps, known)
    assert found["without_mask"] == 2
    assert found["image_auroc"] == auroc(DEFECTS != "good", scores)
    assert found["pixel_auroc"] == pixel_auroc(masks[known], maps[known])
    assert found["aupro_5"] == au_pro(masks[known], maps[known], 0.05)


def test_no_figures_of_pixels_without_any_mask() -> None:
    scores, masks, maps = outcomes()
    found = summarise(DEFECTS, scores, np.zeros_like(masks), maps, DEFECTS == "good")
    for metric in METRICS:
        assert (found[metric] is None) == (metric != "image_auroc")
        assert (found["intervals"][metric] is None) == (metric != "image_auroc")


def test_no_interval_from_one_good_sample() -> None:
    scores, masks, maps = outcomes()
    found = summarise(DEFECTS[3:], scores[3:], masks[3:], maps[3:])
    assert all(found[metric] is not None for metric in METRICS)
    assert set(found["intervals"].values()) == {None}


def test_held_out_good_samples_stand_for_missing_good_ones() -> None:
    scores, masks, maps = outcomes()
    bad = DEFECTS != "good"
    further = (0.3, 0.4, 1.5)
    found = summarise(DEFECTS[bad], scores[bad], masks[bad], maps[bad], None, further)
    labels = [True] * int(bad.sum()) + [False] * 3
    assert (found["samples"], found["good"]) == (bad.sum(), 0)
    assert found["image_auroc"] == auroc(labels, np.concatenate([scores[bad], further]))
    assert set(found["image_auroc_by_defect"]) == {"hole", "stain"}
    assert found["intervals"]["image_auroc"] is not None
    assert found["pixel_auroc"] == pixel_auroc(masks[bad], maps[bad])


@pytest.mark.parametrize("kind", ["good", "stain"])
def test_no_image_figures_of_one_kind(kind: str) -> None:
    scores, masks, maps = outcomes()
    chosen = kind == DEFECTS
    found = summarise(DEFECTS[chosen], scores[chosen], masks[chosen], maps[chosen])
    assert found["image_auroc"] is None and found["image_auroc_by_defect"] == {}
    assert found["intervals"]["image_auroc"] is None


def one_class(value: float | None, interval: list[float] | None) -> dict[str, Any]:
    return dict.fromkeys(METRICS, value) | {"intervals": dict.fromkeys(METRICS, interval)}


def test_mean_over_classes() -> None:
    found = mean_over_classes([one_class(0.9, [0.8, 0.96]), one_class(0.7, [0.7, 0.78])])
    assert found["classes"] == 2
    assert found["aupro_1"] == pytest.approx(0.8)
    # below: (0.1, 0) and above: (0.06, 0.08), each in squares, over two classes
    assert found["intervals"]["aupro_1"] == pytest.approx([0.8 - 0.05, 0.8 + 0.05])


def test_mean_of_one_class_is_that_class() -> None:
    found = mean_over_classes([one_class(0.9, [0.8, 0.95])])
    assert found["image_auroc"] == 0.9
    assert found["intervals"]["image_auroc"] == pytest.approx([0.8, 0.95])


def test_mean_interval_covers_as_often_as_it_says() -> None:
    """Two classes of scores with known AUROC: about 95 in 100 intervals of the mean hold the truth."""
    rng = np.random.default_rng(0)
    truths, held = (0.760, 0.921), 0  # of standard normal scores 1 and 2 apart: Phi(d/sqrt(2))
    labels = np.repeat(["good", "hole"], 40)
    nothing = np.zeros((80, 1, 1), dtype=bool)
    for _ in range(60):
        classes = []
        for distance in (1.0, 2.0):
            scores = rng.standard_normal(80) + distance * (labels == "hole")
            classes.append(summarise(labels, scores, nothing, nothing.astype(np.float32)))
        low, high = mean_over_classes(classes)["intervals"]["image_auroc"]
        held += low <= sum(truths) / 2 <= high
    assert held >= 52  # fewer in 60 happen once in 250 times at 95 %


def test_mean_is_silent_where_a_class_is() -> None:
    found = mean_over_classes([one_class(0.9, [0.8, 0.95]), one_class(None, None)])
    assert found["pixel_auroc"] is None
    found = mean_over_classes([one_class(0.9, [0.8, 0.95]), one_class(0.7, None)])
    assert found["pixel_auroc"] == pytest.approx(0.8)
    assert found["intervals"]["pixel_auroc"] is None


def test_masks_are_read_where_there_are_any(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for i, defect in enumerate(["good", "good", "hole", "hole", "stain"]):
        image = write_image(tmp_path / f"{i}.png", rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        mask = None
        if defect == "hole":
            drawn = np.zeros((32, 32), dtype=np.uint8)
            drawn[8:16, 8 : 16 + i] = 255
            mask = write_image(tmp_path / f"{i}-mask.png", drawn)
        samples.append(SampleFiles(f"test/{defect}/{i}", defect, image, None, mask))
    maps = rng.random((5, 32, 32)).astype(np.float32)
    remaining = iter(zip(rng.random(5), maps, strict=True))
    found = collect(lambda _: next(remaining), Preprocessing("rgb", size=32), samples, SILENT).summary()
    assert (found["samples"], found["without_mask"]) == (5, 1)
    masks = np.zeros((4, 32, 32), dtype=bool)
    for i in (2, 3):
        masks[i, 8:16, 8 : 16 + i] = True
    assert found["pixel_auroc"] == pixel_auroc(masks, maps[:4])
