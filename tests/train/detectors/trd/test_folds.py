"""Scores of training samples by students that have not seen them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors import network_training
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.trd.fitting import students
from cmdiad_train.detectors.trd.fitting.calibration import calibrate_branches
from cmdiad_train.detectors.trd.fitting.folds import left_out_by_fold
from cmdiad_train.detectors.trd.run_files import load_fold_scores
from cmdiad_train.fit.fit import fit
from cmdiad_train.recipe import Recipe, TrdRecipe
from cmdiad_train.runs.run import load_run
from cmdiad_train.training import loop
from helpers import RecordingReporter
from helpers import tiny_trd_recipe as recipe
from reporters import InterruptAt
from runs import assert_whole, hashes


def context(count: int, parts: int = 1, **part: Any) -> Any:
    view = "part" if parts > 1 else "sensor"
    trained = Recipe(TrdRecipe(**part), size=64, view=view, parts=parts)  # type: ignore[arg-type]
    return SimpleNamespace(recipe=trained, train=range(count), preprocessing=SimpleNamespace(parts=parts))


@pytest.mark.parametrize(("count", "parts", "number"), [(10, 1, 3), (12, 2, 4), (3, 1, 8), (5, 1, 0)])
def test_every_sample_is_left_out_once_with_all_parts_of_its_picture(count: int, parts: int, number: int) -> None:
    groups = left_out_by_fold(context(count, parts, folds=number))
    assert len(groups) == min(number, count // parts)
    assert sorted(index for group in groups for index in group) == (list(range(count)) if number else [])
    pictures = [{index // parts for index in group} for group in groups]
    assert all(a.isdisjoint(b) for i, a in enumerate(pictures) for b in pictures[:i])


@pytest.fixture(scope="module")
def reporter() -> RecordingReporter:
    """Return a reporter that keeps the lines of the training in `folded`."""
    return RecordingReporter()


@pytest.fixture(scope="module")
def folded(data: Path, tmp_path_factory: pytest.TempPathFactory, reporter: RecordingReporter) -> Path:
    """A finished training with two folds, which no test changes. It counts as long after two steps."""
    run = tmp_path_factory.mktemp("runs") / "folded"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "PACE_STEPS", 1)
        patch.setattr(loop, "LONG_SECONDS", 0)
        fit(data, None, recipe("rd", "rgb", folds=2), run, reporter)
    return run


def test_expected_time_counts_the_students_of_the_folds(folded: Path, reporter: RecordingReporter) -> None:
    first, *folds = (line for line in reporter.lines if " epochs take " in line)
    assert "with 2 more networks" in first
    assert [line[: line.index(":")] for line in folds] == ["fold 1 train rgb student", "fold 2 train rgb student"]
    assert not any("more network" in line for line in folds)


def test_time_left_is_reported_after_each_fold(folded: Path, reporter: RecordingReporter) -> None:
    finished = [line for line in reporter.lines if line.startswith("Fold ")]
    assert re.fullmatch(r"Fold 1 of 2 is finished; about \d+ (s|min) left\.", finished[0])
    assert finished[1:] == ["Fold 2 of 2 is finished."]


def test_folds_add_scores_and_change_nothing_else(
    folded: Path, fitted: Callable[..., Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, run = load_run(fitted("rd", "rgb")), load_run(folded)
    known = plain.calibration.held_out_scores
    assert run.calibration.held_out_scores[: len(known)] == known
    assert len(run.calibration.held_out_scores) == len(known) + 6
    student = "student-rgb.safetensors"
    assert hashes(folded)[student] == hashes(fitted("rd", "rgb"))[student]
    assert not (folded / "stages").exists()

    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    interrupted = tmp_path / "interrupted"
    points = [("fold 1 train rgb student", 1), ("fold 1 score left out samples", 2), ("fold 2 train rgb student", 2)]
    points.append(("calibrate threshold", 3))
    for step, done in points:
        with pytest.raises(KeyboardInterrupt):
            fit(data, None, recipe("rd", "rgb", folds=2), interrupted, InterruptAt(step, done))
        assert_whole(interrupted)
    fit(data, None, recipe("rd", "rgb", folds=2), interrupted)
    assert hashes(interrupted) == hashes(folded)


def test_a_training_that_is_killed_at_its_end_does_not_train_the_folds_again(
    folded: Path, data: Path, tmp_path: Path
) -> None:
    run, reporter = tmp_path / "run", RecordingReporter()
    with pytest.raises(KeyboardInterrupt):
        fit(data, None, recipe("rd", "rgb", folds=2), run, InterruptAt("inspect test samples", 1))
    assert not (run / "stages").exists()
    fit(data, None, recipe("rd", "rgb", folds=2), run, reporter)
    assert not [name for name, _, _ in reporter.steps if "train" in name]
    assert hashes(run) == hashes(folded)


def test_no_student_scores_a_sample_that_it_was_trained_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[str, set[int]]] = []
    scored: list[list[int]] = []
    trained, score = students.trained_student, FitContext.score

    def train(context: Any, student: Any, lesson: students.Lesson) -> Any:
        used.append((lesson.name, set(lesson.samples)))
        return trained(context, student, lesson)

    def record(context: FitContext, detector: Any, chosen: list[Any], step: str) -> Any:
        if step.startswith("fold"):
            scored.append([context.train.index(files) for files in chosen])
        return score(context, detector, chosen, step)

    monkeypatch.setattr("cmdiad_train.detectors.trd.fitting.variants.trained_student", train)
    monkeypatch.setattr(FitContext, "score", record)
    fit(data, None, recipe("mtfi-trd", "xyz", folds=2), tmp_path / "run")
    for number, chosen in enumerate(scored, start=1):
        samples = [group for name, group in used if name.startswith(f"fold {number} ")]
        assert len(samples) == 3  # both tuned students and the fine-tuned one
        assert all(group == set(range(6)) - set(chosen) for group in samples)
    assert sorted(index for chosen in scored for index in chosen) == list(range(6))


def test_the_branches_of_each_fold_are_calibrated_like_those_of_the_detector(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Students whose distances are larger everywhere must not raise the threshold."""
    calibrations: list[Any] = []
    score = FitContext.score

    def record(context: FitContext, detector: Any, chosen: list[Any], step: str) -> Any:
        mean, deviation = calibrate_branches(context, detector)
        assert torch.equal(detector.deviation, deviation.float())
        assert torch.equal(detector.mean, mean.float() * (context.recipe.detector.mode == "faithful"))  # type: ignore[attr-defined]
        calibrations.append(deviation)
        return score(context, detector, chosen, step)

    monkeypatch.setattr(FitContext, "score", record)
    fit(data, None, recipe("rd", "rgb", folds=2), tmp_path / "run")
    assert len({float(deviation) for deviation in calibrations}) == 3  # of both folds and of the detector


@pytest.mark.parametrize("content", ["{}", '{"scores": [[1.0, 2.0]]}', '{"scores": [[1.0, 2.0], [1.0, null]]}', "["])
def test_damaged_scores_of_a_fold_are_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "fold-1.json"
    file.write_text(content)
    with pytest.raises(RunError, match="fold-1.json"):
        load_fold_scores(file, 2)


def test_scores_of_a_fold_may_be_negative(tmp_path: Path) -> None:
    """A faithful recipe subtracts the mean of each branch."""
    file = tmp_path / "fold-1.json"
    file.write_text('{"scores": [[-0.5, -0.25]]}')
    assert load_fold_scores(file, 1) == [(-0.5, -0.25)]


def test_one_fold_is_refused() -> None:
    with pytest.raises(RunError, match="folds"):
        TrdRecipe(folds=1)
