"""An unusable sample never ends a training: it is named, counted and left out, or the training is refused at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError, OutputError, RunError
from cmdiad_runtime.support.records import NewerRecordError, RecordError
from cmdiad_train.datasets import LeftOut
from cmdiad_train.fit import samples as providing
from cmdiad_train.fit.fit import fit
from cmdiad_train.runs.record import RunRecord, read_record
from cmdiad_train.runs.run import load_held_out, load_run
from helpers import RecordingReporter, changed, sample_files, tiny_recipe, truncate, write_image
from lanes import some
from runs import assert_whole, hashes


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flat(path: Path) -> None:
    write_image(path, np.full((112, 112, 3), 90, np.uint8))


DAMAGES = [truncate, dangling, folder, emptied, flat]


@pytest.mark.parametrize(
    ("split", "use", "damage"),
    [
        *(("train", "train", damage) for damage in DAMAGES),
        *some([("validation", "held_out", damage) for damage in DAMAGES], [("validation", "held_out", truncate)]),
        *some([("test", "test", damage) for damage in DAMAGES], [("test", "test", flat)]),
    ],
)
@pytest.mark.failure_mode("A training or test sample that cannot be used")
def test_each_split_loses_the_sample_alone(
    own_data: Path, tmp_path: Path, damage: Callable[[Path], object], split: str, use: str
) -> None:
    recipe = tiny_recipe()
    path = sample_files(own_data, split, "good", "rgb")[1]
    damage(path)
    reporter = RecordingReporter()
    record = fit(own_data, "gear", recipe, tmp_path / "run", reporter)
    assert record.status == "complete"
    assert [(s.name, s.split) for s in record.left_out] == [(f"{split}/good/001", use)]
    assert str(path) in record.left_out[0].message
    assert read_record(tmp_path / "run") == record
    assert [line for line in reporter.lines if line.startswith(f"  {split}/good/001: ")]
    assert record.metrics is not None
    assert (record.metrics["samples"], record.metrics["good"]) == (5, 2)
    lost = 1 if use == "test" else 0
    assert record.metrics["not_inspected"]["good"] == lost
    assert sum(record.metrics["not_inspected"]["reasons"].values()) == lost
    load_run(tmp_path / "run")


def test_the_rest_is_trained_as_if_the_sample_had_never_been_there(own_data: Path, tmp_path: Path) -> None:
    path = sample_files(own_data, "train", "good", "rgb")[5]
    truncate(path)
    fit(own_data, "gear", tiny_recipe(), tmp_path / "with")
    path.unlink()
    fit(own_data, "gear", tiny_recipe(), tmp_path / "without")
    assert hashes(tmp_path / "with") == hashes(tmp_path / "without")


@pytest.mark.parametrize("view", ["part", "auto"])
def test_a_part_that_is_not_found_costs_its_sample(own_data: Path, tmp_path: Path, view: str) -> None:
    for split in ("train", "test"):
        flat(sample_files(own_data, split, "good", "rgb")[1])
    record = fit(own_data, "gear", tiny_recipe(view=view), tmp_path / "run")
    assert [(s.name, s.reason) for s in record.left_out] == [
        ("train/good/001", "no-contrast"),
        ("test/good/001", "no-contrast"),
    ]
    assert record.metrics is not None
    assert record.metrics["not_inspected"] == {"good": 1, "defects": 0, "reasons": {"no-contrast": 1}}


def test_a_sample_of_another_category_is_left_out(own_data: Path, tmp_path: Path) -> None:
    shutil.copytree(own_data / "gear", own_data / "wheel")
    truncate(own_data / "wheel" / "train" / "good" / "rgb" / "002.png")
    recipe = tiny_recipe("rgb", "f2f")
    recipe = changed(recipe, distillation=changed_distillation(recipe, ("wheel",)))
    record = fit(own_data, "gear", recipe, tmp_path / "run")
    assert [(s.name, s.split) for s in record.left_out] == [("wheel/train/good/002", "joint")]


def changed_distillation(recipe: object, categories: tuple[str, ...]) -> object:
    from dataclasses import replace

    return replace(recipe.detector.distillation, categories=categories)  # type: ignore[attr-defined]


def test_a_tampered_copy_that_fails_is_replaced(data: Path, tmp_path: Path) -> None:
    original, failing = providing.tamper, sample_files(data, "validation", "good", "rgb")[0]

    def tamper(sample: object, preprocessing: object) -> object:
        if sample.name == str(failing):  # type: ignore[attr-defined]
            raise InputError(sample.name, found="no part", action="none", reason="no-part")  # type: ignore[attr-defined]
        return original(sample, preprocessing)  # type: ignore[arg-type]

    with mock.patch.object(providing, "tamper", tamper):
        fit(data, "gear", tiny_recipe(), tmp_path / "run")
    assert len(load_run(tmp_path / "run").golden) == 2 * 2  # of three held-out samples
    assert len(load_held_out(tmp_path / "run")) == 2 * 2


def test_no_tampered_copy_at_all_is_refused_before_the_work(data: Path, tmp_path: Path) -> None:
    error = InputError("x", found="no part", action="none", reason="no-part")
    reporter = RecordingReporter()
    with mock.patch.object(providing, "tamper", side_effect=error), pytest.raises(RunError, match="tampered copy"):
        fit(data, "gear", tiny_recipe(), tmp_path / "run", reporter)
    assert not [name for name, *_ in reporter.steps if name.startswith("extract")]
    assert not (tmp_path / "run").exists()


@pytest.mark.failure_mode("Too many samples that cannot be used")
def test_too_many_unusable_samples_are_refused_before_the_work(own_data: Path, tmp_path: Path) -> None:
    for path in sample_files(own_data, "train", "good", "rgb")[:2]:
        truncate(path)
    reporter = RecordingReporter()
    with pytest.raises(RunError, match="2 of 9 good samples that cannot be used. Expected at most 20%") as refused:
        fit(own_data, "gear", tiny_recipe(), tmp_path / "run", reporter)
    assert "001.png" not in str(refused.value) and "000.png" in str(refused.value)
    assert [line[:18] for line in reporter.lines[1:]] == ["  train/good/000: ", "  train/good/001: "]
    assert not [name for name, *_ in reporter.steps if name.startswith("extract")]
    assert not (tmp_path / "run").exists()


def test_a_data_set_without_any_usable_sample(own_data: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for path in sample_files(own_data, split, "good", "rgb"):
            emptied(path)
    with pytest.raises(RunError, match="9 of 9 good samples"):
        fit(own_data, "gear", tiny_recipe(view="auto"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_test_split_without_any_usable_sample_costs_the_figures_alone(own_data: Path, tmp_path: Path) -> None:
    for place in ("good", "hole", "contamination"):
        for path in sample_files(own_data, "test", place, "rgb"):
            emptied(path)
    reporter = RecordingReporter()
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run", reporter)
    assert (record.status, record.metrics) == ("complete", None)
    assert len(record.left_out) == 5
    assert "5 of 5 test samples could not be inspected:" in reporter.lines
    assert any(line.startswith("No figures: ") for line in reporter.lines)


def test_many_left_out_test_samples_are_named_up_to_a_limit(own_data: Path, tmp_path: Path) -> None:
    hole = own_data / "gear" / "test" / "hole" / "rgb"
    for i in range(100, 115):
        (hole / f"{i}.png").write_bytes(b"\x89PNG")
    reporter = RecordingReporter()
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run", reporter)
    assert len(record.left_out) == 15
    assert "15 of 20 test samples could not be inspected:" in reporter.lines
    at_the_end = reporter.lines[reporter.lines.index("15 of 20 test samples could not be inspected:") :]
    assert len([line for line in at_the_end if line.startswith("  test/hole/")]) == 10
    assert "  … and 5 more" in at_the_end


def test_a_file_that_fails_on_its_first_byte(own_data: Path, tmp_path: Path) -> None:
    broken = sample_files(own_data, "train", "good", "rgb")[3]
    original = providing.SampleFiles.read

    def read(files: object, colour: str = "rgb") -> object:
        if files.rgb == broken:  # type: ignore[attr-defined]
            raise OSError(5, "Input/output error")
        return original(files, colour)  # type: ignore[arg-type]

    with mock.patch.object(providing.SampleFiles, "read", read):
        record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run")
    assert [s.name for s in record.left_out] == ["train/good/003"]


def test_an_interrupted_training_leaves_out_the_same_samples(own_data: Path, tmp_path: Path) -> None:
    from reporters import InterruptAt

    truncate(sample_files(own_data, "train", "good", "rgb")[2])
    fit(own_data, "gear", tiny_recipe(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(own_data, "gear", tiny_recipe(), tmp_path / "run", InterruptAt("choose main bank", 1))
    assert_whole(tmp_path / "run")
    fit(own_data, "gear", tiny_recipe(), tmp_path / "run")
    assert hashes(tmp_path / "run") == hashes(tmp_path / "whole")


def test_a_sample_that_breaks_between_two_attempts_is_another_training(own_data: Path, tmp_path: Path) -> None:
    from reporters import InterruptAt

    with pytest.raises(KeyboardInterrupt):
        fit(own_data, "gear", tiny_recipe(), tmp_path / "run", InterruptAt("calibrate threshold", 1))
    truncate(sample_files(own_data, "train", "good", "rgb")[2])
    with pytest.raises(OutputError, match="another recipe or other data"):
        fit(own_data, "gear", tiny_recipe(), tmp_path / "run")


def test_a_finished_run_says_what_it_left_out(own_data: Path, tmp_path: Path) -> None:
    path = sample_files(own_data, "train", "good", "rgb")[2]
    content = path.read_bytes()
    truncate(path)
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run")
    path.write_bytes(content)
    reporter = RecordingReporter()
    assert fit(own_data, "gear", tiny_recipe(), tmp_path / "run", reporter) == record
    (line,) = reporter.lines
    assert "left out 1 good samples" in line and "--out" in line


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("x", RecordError),
        ([{"name": "a", "split": "train", "reason": "no-part"}], RecordError),
        ([{"name": "a", "split": "tr", "reason": "no-part", "message": ""}], RecordError),
        ([{"name": "a", "split": "train", "reason": "bad-mood", "message": ""}], RecordError),
        ([{"name": "a", "split": "train", "reason": "no-part", "message": "", "by": 1}], NewerRecordError),
    ],
)
def test_impossible_records_of_left_out_samples(trained: Callable[..., Path], value: object, error: type) -> None:
    content = read_record(trained("rgb")).to_json()
    assert "left_out" not in content  # so that earlier versions read the record
    with pytest.raises(error):
        RunRecord.from_json({key: v for key, v in content.items() if "format" not in key} | {"left_out": value})


def test_left_out_samples_come_back(trained: Callable[..., Path]) -> None:
    from dataclasses import replace

    record = replace(read_record(trained("rgb")), left_out=(LeftOut("test/dent/1", "test", "no-part", "no part"),))
    assert RunRecord.from_json(record.to_json()) == record
    assert record.left_out[0].defect == "dent"


@pytest.mark.parametrize(
    ("modality", "damage"), [("rgb", truncate), ("rgb", emptied), ("xyz", emptied), ("xyz", folder)]
)
def test_unreadable_test_samples_are_reported_before_the_work(
    own_data: Path, tmp_path: Path, modality: str, damage: Callable[[Path], object]
) -> None:
    path = sample_files(own_data, "test", "good", modality)[0]
    if damage is truncate:
        path.write_bytes(b"GIF89a")
    else:
        damage(path)
    reporter = RecordingReporter()
    stop = mock.patch("cmdiad_train.fit.start.screen_preparing", side_effect=KeyboardInterrupt)
    with stop, pytest.raises(KeyboardInterrupt):
        fit(own_data, "gear", tiny_recipe(modality), tmp_path / "run", reporter)
    assert "1 of 5 test samples cannot be read, so the figures will leave them out:" in reporter.lines
    assert any(line.startswith("  test/good/000: ") for line in reporter.lines)


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
def test_a_pipe_among_the_images(own_data: Path, tmp_path: Path) -> None:
    path = sample_files(own_data, "train", "good", "rgb")[1]
    path.unlink()
    os.mkfifo(path)
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run")
    assert [(s.name, s.reason) for s in record.left_out] == [("train/good/001", "not-a-file")]
