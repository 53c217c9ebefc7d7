"""A training whose images repeat a few placements says so, and keeps it in the record of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmdiad_runtime.cli.summaries import summary_of_run
from cmdiad_train.detectors.bank.fitting import calibration
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.runs.record import read_record
from helpers import RecordingReporter, sample_files, tiny_recipe, tiny_trd_recipe


def repeat(data: Path, images: int, *, in_turn: bool) -> Path:
    """Keep five good images of the gear and its test split, and record them several times, in turn or one by one."""
    rng = np.random.default_rng(0)
    sources = [path for split in ("train", "test") for path in sample_files(data, split, "good", "rgb")][:5]
    # Turned, because the features of upright gears differ little more than those of their copies.
    pixels = [np.rot90(np.asarray(Image.open(path)).astype(np.float64), i) for i, path in enumerate(sources)]
    for folder in ("train", "validation"):
        shutil.rmtree(data / "gear" / folder, ignore_errors=True)
    target = data / "gear" / "train" / "good" / "rgb"
    target.mkdir(parents=True)
    for number, image in enumerate(pixels):
        for copy in range(images):
            noisy = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
            place = f"{copy}{(number + copy) % 5}-{number}" if in_turn else f"{number}{copy}-{number}"
            Image.fromarray(noisy).save(target / f"{place}.png")
    return data


@pytest.mark.parametrize(("series", "in_turn"), [("leave-out", True), ("keep", False)])
def test_series_that_stay_in_the_banks_are_reported_and_recorded(
    own_data: Path, tmp_path: Path, series: str, in_turn: bool
) -> None:
    data = repeat(own_data, images=4, in_turn=in_turn)
    reporter, run = RecordingReporter(), tmp_path / "run"
    record = fit(data, "gear", tiny_recipe(series=series), run, reporter, FitOptions(test=False))
    assert record.series is not None and (record.series.count, record.series.samples) == (5, 20)
    assert [line for line in reporter.lines if "series of images" in line] == [f"warning: {record.series.warning}."]
    assert len({name[-1] for name in record.series.example}) == 1
    assert read_record(run) == record
    assert json.loads((run / "run.json").read_text())["series"]["count"] == 5
    shown = "20 good samples make up 5 series of images that hardly differ; the same cmdiad-train command names one"
    assert summary_of_run(run)["threshold"]["doubts"][-1] == f"{shown} of them"
    again = RecordingReporter()
    assert fit(data, "gear", tiny_recipe(series=series), run, again, FitOptions(test=False)) == record
    assert again.lines == [f"warning: {record.series.warning}."], "a finished run repeats its warning"


def test_series_that_the_banks_do_not_recognise_are_reported(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = repeat(own_data, images=4, in_turn=True)
    monkeypatch.setattr(calibration, "series_of", lambda features, longest: [0, 0, *range(1, len(features) - 1)])
    reporter, run = RecordingReporter(), tmp_path / "run"
    record = fit(data, "gear", tiny_recipe(series="leave-out"), run, reporter, FitOptions(test=False))
    assert [line for line in reporter.lines if "count as 19 series" in line]
    assert record.series is not None and (record.series.count, record.series.samples) == (5, 20)
    assert [line for line in reporter.lines if "series of images" in line] == [f"warning: {record.series.warning}."]


@pytest.mark.parametrize(
    ("recipe", "warned"), [(tiny_recipe(series="keep"), True), (tiny_trd_recipe("rd", "rgb"), False)]
)
def test_a_whole_placement_that_is_held_out_sets_the_threshold_alone_or_among_near_copies(
    own_data: Path, tmp_path: Path, recipe: Any, warned: bool
) -> None:
    """Banks are calibrated with their training samples, too, and those have near copies in the bank."""
    folder = repeat(own_data, images=4, in_turn=False) / "gear"
    held_out = folder / "validation" / "good" / "rgb"
    held_out.mkdir(parents=True)
    for path in (folder / "train" / "good" / "rgb").glob("4*"):
        path.rename(held_out / path.name)
    record = fit(own_data, "gear", recipe, tmp_path / "run", options=FitOptions(test=False))
    assert (record.series is not None) == warned


def test_series_that_are_left_out_as_a_whole_need_no_warning(own_data: Path, tmp_path: Path) -> None:
    data = repeat(own_data, images=4, in_turn=False)
    reporter, run = RecordingReporter(), tmp_path / "run"
    record = fit(data, "gear", tiny_recipe(series="leave-out"), run, reporter, FitOptions(test=False))
    assert record.series is None
    assert [line for line in reporter.lines if "count as 5 series" in line]
    assert not [line for line in reporter.lines if "series of images" in line]
