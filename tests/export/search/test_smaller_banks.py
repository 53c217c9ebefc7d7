"""Smaller banks: the coresets that training would have chosen, with thresholds and weights of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmdiad_export.search.held_out import HeldOut
from cmdiad_export.search.smaller_banks import with_smaller_banks
from cmdiad_runtime.bundle.threshold import calibrate_threshold
from cmdiad_train.runs.run import Run, load_held_out, load_run
from helpers import changed

Cached = Callable[..., Path]


def smaller(run: Run, *shares: float) -> dict[float, Run]:
    return with_smaller_banks(run, HeldOut.of(run.detector, load_held_out(run.path)), shares)


def rows_of(run: Run) -> list[torch.Tensor]:
    return [search.rows + search.center for search in run.detector.searches]


@pytest.mark.parametrize("whole", [False, True])
def test_smaller_bank_is_what_training_would_have_kept(trained: Cached, whole: bool) -> None:
    """A coreset's beginning, or a selection from a whole bank, against a training with the smaller coreset."""
    run = load_run(trained("rgb", **({"coreset": 1.0} if whole else {})))
    expected = load_run(trained("rgb", coreset=0.05))
    found = smaller(run, 0.1, 0.05)
    assert list(found) == [0.1, 0.05]
    assert found[0.05].recipe == expected.recipe
    for ours, theirs in zip(rows_of(found[0.05]), rows_of(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    for scorer, reference in zip(found[0.05].detector.scorers, expected.detector.scorers, strict=True):
        assert torch.equal(scorer.neighbours, reference.neighbours)
    assert [len(rows) // 2 for rows in rows_of(found[0.1])] == [len(rows) for rows in rows_of(expected)]


@pytest.mark.parametrize("verdict", ["map", "image"])
def test_thresholds_rest_on_the_held_out_samples(trained: Cached, verdict: str) -> None:
    run = load_run(trained("rgb", verdict=verdict))
    expected = load_run(trained("rgb", coreset=0.05, verdict=verdict)).calibration
    found = smaller(run, 0.05)[0.05]
    assert found.calibration.verdict == found.detector.verdict == verdict
    for name in ("held_out_scores", "held_out_peaks"):  # those of the validation split come first
        np.testing.assert_allclose(getattr(found.calibration, name), getattr(expected, name)[:3], rtol=1e-4)
    rate = run.calibration.false_reject_rate
    for name, values in (("score", found.calibration.held_out_scores), ("map", found.calibration.held_out_peaks)):
        threshold = getattr(found.calibration, f"{name}_threshold")
        assert threshold == pytest.approx(calibrate_threshold(values, rate).value)
    assert (found.calibration.score_threshold == found.calibration.map_threshold) == (verdict == "map")


def test_weights_are_fitted_on_the_held_out_samples(trained: Cached) -> None:
    run = load_run(trained("rgb", "f2f"))
    found = smaller(run, 0.02)[0.02]
    for name in ("score_weights", "map_weights"):
        weights = getattr(found.detector, name)
        assert float(weights.sum()) == pytest.approx(1)
        assert not torch.equal(weights, getattr(run.detector, name))


def test_the_run_itself_is_left_alone(trained: Cached) -> None:
    run = load_run(trained("rgb", "f2f"))
    before = {key: value.clone() for key, value in run.detector.state_dict().items()}
    smaller(run, 0.05)
    after = run.detector.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_no_smaller_bank_than_there_is_and_none_for_a_fusion_that_cannot_be_fitted(trained: Cached) -> None:
    run = load_run(trained("rgb", "f2f"))
    assert smaller(run, 0.2, 0.5) == {}
    published = replace(run, recipe=changed(run.recipe, fusion="ocsvm"))
    assert smaller(published, 0.05) == {}
