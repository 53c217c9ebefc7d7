"""Training warns if the detector does not tell obvious artificial defects from good parts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cmdiad_runtime.bundle.threshold import calibrate
from cmdiad_runtime.cli.summaries import summary_of_run
from cmdiad_train.fit.fit import fit
from cmdiad_train.fit.separation import MOST_SAMPLES, not_separated
from cmdiad_train.recipe import Recipe
from helpers import RecordingReporter, tiny_recipe, tiny_trd_recipe

GOOD = calibrate([1.0, 2.0, 3.0, 4.0], [1.0] * 4, 0.05)


@pytest.mark.parametrize(
    ("tampered", "warned"),
    [
        ([4.5, 5.0], False),
        ([4.5, 3.0], False),
        ([4.5, 3.0, 3.0], True),
        ([4.0, 4.0], True),
        ([math.nan, math.nan], False),
        ([], True),
    ],
)
def test_half_of_the_artificial_defects_must_exceed_the_threshold(tampered: list[float], warned: bool) -> None:
    assert GOOD.score_threshold == 4.0
    assert bool(not_separated(tampered, GOOD)) == warned


def test_the_line_has_the_ranges_of_the_scores() -> None:
    assert not_separated([3.99, 4.5, 3.75], GOOD).startswith(
        "Only 1 of 3 held-out samples with an obvious artificial defect exceed the threshold (scores 3.75 to 4.5, good "
        "samples 1 to 4). The detector is not trained enough"
    )


@pytest.mark.parametrize(
    ("recipe", "warned"),
    [(tiny_recipe("rgb"), False), (tiny_trd_recipe("rd", "rgb", learning_rate=1e-9), True)],
    ids=["memory bank", "untrained student"],
)
def test_training_warns_in_one_line(data: Path, tmp_path: Path, recipe: Recipe, warned: bool) -> None:
    reporter = RecordingReporter()
    record = fit(data, None, recipe, tmp_path / "run", reporter)
    lines = [line for line in reporter.lines if "artificial defect" in line]
    assert lines == ([f"warning: {record.not_separated}."] if warned else [])
    assert bool(record.not_separated) == warned and "\n" not in record.not_separated
    assert len(record.data.held_out) < MOST_SAMPLES
    again = RecordingReporter()
    fit(data, None, recipe, tmp_path / "run", again)
    assert again.lines == lines, "a finished training repeats its warning and does no work"
    assert again.steps == []
    doubts = summary_of_run(tmp_path / "run")["threshold"]["doubts"]
    assert [doubt for doubt in doubts if "artificial defect" in doubt] == ([record.not_separated] if warned else [])
