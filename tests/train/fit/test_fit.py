"""Training as a whole: the same bytes every time, whatever interrupts it, and plain words for bad data."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_train.detectors.bank.fitting import distillation
from cmdiad_train.fit.envelope import EnvelopeOptions
from cmdiad_train.fit.export_inputs import evenly_spread
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.run import load_held_out, load_run
from helpers import RecordingReporter, sample_files, tiny_recipe, write_image
from lanes import long
from patience import LIMIT_S
from reporters import InterruptAt
from runs import assert_whole, hashes


class Recorder:
    """A reporter that remembers the steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []

    def step(self, name: str, done: int, total: int) -> None:
        self.steps.append((name.split(" (", maxsplit=1)[0], done))

    def say(self, line: str) -> None:
        """Discard a line."""


@pytest.mark.parametrize("modality", ["rgb", long("xyz")])  # An interrupted training of xyz compares them too.
def test_one_seed_one_result(data: Path, trained: object, tmp_path: Path, modality: str) -> None:
    first = trained(modality, "f2f")  # type: ignore[operator]
    fit(data, "gear", tiny_recipe(modality, "f2f"), tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(first)
    assert {"banks.safetensors", "hallucination.safetensors", "calibration.json"} <= set(hashes(first))


@pytest.mark.parametrize("modality", ["rgb", long("xyz")])
def test_another_seed_another_result(data: Path, trained: object, tmp_path: Path, modality: str) -> None:
    first = trained(modality, "f2f")  # type: ignore[operator]
    fit(data, "gear", tiny_recipe(modality, "f2f", seed=1), tmp_path / "other")
    other = hashes(tmp_path / "other")
    for name in ("banks", "hallucination", "extractor-rgb", "extractor-xyz"):
        assert other[f"{name}.safetensors"] != hashes(first)[f"{name}.safetensors"]


@pytest.mark.parametrize(
    ("step", "done"),
    [
        ("extract rgb features", 2),
        long("extract xyz features", 3),
        ("distil f2f", 1),
        long("choose fusion bank", 1),
        ("calibrate threshold", 1),
        ("inspect test samples", 1),
    ],
)
def test_interrupted_training_goes_on_to_the_same_bytes(
    data: Path, trained: object, tmp_path: Path, step: str, done: int
) -> None:
    run, recipe = tmp_path / "run", tiny_recipe("rgb", "f2f")
    with pytest.raises(KeyboardInterrupt):
        fit(data, "gear", recipe, run, InterruptAt(step, done))
    assert_whole(run)
    with pytest.raises(RunError, match="unfinished training"):
        load_run(run)
    assert fit(data, "gear", recipe, run).status == "complete"
    assert hashes(run) == hashes(trained("rgb", "f2f"))  # type: ignore[operator]


def test_interrupted_xyz_training_goes_on_to_the_same_bytes(data: Path, trained: object, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", tiny_recipe("xyz", "f2f")
    for step, done in (("calibrate point encoder", 2), ("extract xyz features", 2), ("choose main bank", 1)):
        with pytest.raises(KeyboardInterrupt):
            fit(data, "gear", recipe, run, InterruptAt(step, done))
        assert_whole(run)
    fit(data, "gear", recipe, run)
    assert hashes(run) == hashes(trained("xyz", "f2f"))  # type: ignore[operator]


def test_interruption_within_an_epoch_repeats_only_that_epoch(
    data: Path, trained: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe = tmp_path / "run", tiny_recipe("rgb", "f2f")
    original = distillation.learning_rate

    def interrupt(options: object, epoch: float, published: bool) -> float:
        if epoch > 1:
            raise KeyboardInterrupt
        return original(options, epoch, published)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(distillation, "learning_rate", interrupt)
        fit(data, "gear", recipe, run)
    assert_whole(run)
    recorder = Recorder()
    fit(data, "gear", recipe, run, recorder)
    assert [done for step, done in recorder.steps if step == "distil f2f"] == [2]
    assert hashes(run) == hashes(trained("rgb", "f2f"))  # type: ignore[operator]


@pytest.mark.long
def test_killed_process_can_go_on(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    store = tmp_path / "store"
    arguments = [str(data), "--size", "112", "--rgb-grid", "14", "--out", str(run), "--cache-dir", str(store)]
    start = [sys.executable, "-c", "from cmdiad_train.cli.train import main; main()", *arguments]
    with subprocess.Popen(start, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + LIMIT_S
        while not any(store.glob("??/[!.]*.safetensors")) and process.poll() is None:
            assert time.monotonic() < end
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=LIMIT_S) == -signal.SIGKILL
    assert any(store.glob("??/[!.]*.safetensors"))
    record = read_record(run)
    recipe = record.asked
    assert fit(data, "gear", recipe, run).status == "complete"
    fit(data, "gear", recipe, tmp_path / "undisturbed")
    assert hashes(run) == hashes(tmp_path / "undisturbed")


def test_leftovers_of_a_kill_do_not_stand_in_the_way(data: Path, trained: object, tmp_path: Path) -> None:
    """A process killed while it wrote leaves a hidden temporary file, even before the record is there."""
    run = tmp_path / "run"
    run.mkdir()
    (run / ".run.0123abcd.json").write_text('{"format"')
    fit(data, "gear", tiny_recipe(), run)
    expected = hashes(trained("rgb"))  # type: ignore[operator]
    assert {name: value for name, value in hashes(run).items() if name in expected} == expected


def test_finished_run_is_returned_as_it_is(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    record = fit(data, "gear", tiny_recipe(), run)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    recorder = Recorder()
    assert fit(data, "gear", tiny_recipe(), run, recorder) == record
    assert recorder.steps == []
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_finished_run_says_that_its_checks_stay(data: Path, trained: Callable[[str], Path]) -> None:
    run, recorder, rate = trained("rgb"), RecordingReporter(), EnvelopeOptions().rate
    fit(data, "gear", tiny_recipe(), run, recorder, FitOptions(envelope=EnvelopeOptions(rate, ("exposure",))))
    (line,) = recorder.lines
    assert f"--envelope-rate {rate:g}, switched off: none." in line


def test_finished_run_keeps_no_intermediate_files(trained: object) -> None:
    names = set(hashes(trained("rgb", "f2f")))  # type: ignore[operator]
    assert not any("cache" in name or "checkpoint" in name for name in names)


def test_record_tells_what_the_run_is_made_of(data: Path, trained: object) -> None:
    record = read_record(trained("rgb", "f2f"))  # type: ignore[operator]
    assert record.recipe == tiny_recipe("rgb", "f2f")
    assert list(record.data.train) == [f"train/good/{i:03d}" for i in range(6)]
    assert list(record.data.held_out) == [f"validation/good/{i:03d}" for i in range(3)]
    assert "not trained" in record.provenance["rgb"]["extractor"]
    assert "not trained" in record.provenance["xyz"]["extractor"]
    assert record.metrics["samples"] == 5
    assert record.metrics["good"] == 2


def test_another_recipe_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(data, "gear", tiny_recipe(), run)
    before = hashes(run)
    with pytest.raises(OutputError, match="another recipe or other data") as refused:
        fit(data, "gear", tiny_recipe(coreset=0.3), run)
    assert refused.value.subject == str(run)
    assert "(new: coreset 0.3 instead of " in refused.value.found
    assert refused.value.action.endswith(f"--out {tmp_path / 'run-2'} is free")
    assert hashes(run) == before


def test_other_data_in_the_same_folder_are_refused(own_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(own_data, "gear", tiny_recipe(), run, InterruptAt("extract rgb features", 2))
    sample_files(own_data, "train", "good", "rgb")[-1].unlink()
    with pytest.raises(OutputError, match="another recipe or other data"):
        fit(own_data, "gear", tiny_recipe(), run)


@pytest.mark.parametrize("kind", ["folder with files", "file", "below a file"])
def test_unusable_run_folders(data: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    run = {"folder with files": "used", "file": "used/notes.txt", "below a file": "used/notes.txt/run"}[kind]
    with pytest.raises(OutputError) as refused:
        fit(data, "gear", tiny_recipe(), tmp_path / run)
    assert refused.value.subject == str(tmp_path / run)
    assert (tmp_path / "used" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("missing", ["rgb", "xyz"])
def test_missing_partner_is_named(own_data: Path, tmp_path: Path, missing: str) -> None:
    sample_files(own_data, "train", "good", missing)[2].unlink()
    record = fit(own_data, "gear", tiny_recipe("rgb", "f2f"), tmp_path / "run")
    (left_out,) = record.left_out
    assert (left_out.name, left_out.split, left_out.reason) == ("train/good/002", "train", "missing-file")
    assert str(own_data / "gear" / "train" / "good" / missing) in left_out.message
    assert "train/good/002" not in record.data.train


@pytest.mark.parametrize(("modality", "other"), [("rgb", "xyz"), ("xyz", "rgb")])
def test_one_modality_alone_needs_no_file_of_the_other(
    own_data: Path, trained: object, tmp_path: Path, modality: str, other: str
) -> None:
    for folder in list(own_data.glob(f"gear/*/*/{other}")):
        shutil.rmtree(folder)
    fit(own_data, "gear", tiny_recipe(modality), tmp_path / "run")
    assert hashes(tmp_path / "run") == hashes(trained(modality))  # type: ignore[operator]


@pytest.mark.parametrize(("modality", "other"), [("rgb", "xyz"), ("xyz", "rgb")])
def test_hallucination_needs_the_other_modality_for_training_only(
    own_data: Path, trained: object, tmp_path: Path, modality: str, other: str
) -> None:
    for split in ("validation", "test"):
        for folder in list(own_data.glob(f"gear/{split}/*/{other}")):
            shutil.rmtree(folder)
    fit(own_data, "gear", tiny_recipe(modality, "f2f"), tmp_path / "run")
    assert hashes(tmp_path / "run") == hashes(trained(modality, "f2f"))  # type: ignore[operator]


def test_without_validation_every_fifth_sample_is_held_out(own_data: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_data / "gear" / "validation")
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run")
    assert list(record.data.held_out) == ["train/good/000", "train/good/005"]
    assert list(record.data.train) == [f"train/good/{i:03d}" for i in range(1, 5)]


def test_without_test_split_there_are_no_metrics(own_data: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_data / "gear" / "test")
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run")
    assert record.status == "complete"
    assert record.metrics is None


def test_a_test_split_of_good_samples_alone_gives_no_metrics(own_data: Path, tmp_path: Path) -> None:
    for folder in (own_data / "gear" / "test").iterdir():
        if folder.name != "good":
            shutil.rmtree(folder)
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run")
    assert record.metrics is None
    assert record.status == "complete"


def test_held_out_samples_stand_for_good_test_samples(own_data: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_data / "gear" / "test" / "good")
    reporter = RecordingReporter()
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run", reporter)
    assert record.metrics is not None
    held_out = load_run(tmp_path / "run").calibration.held_out_scores
    assert (record.metrics["samples"], record.metrics["good"]) == (3, 0)
    assert record.metrics["held_out_good"] == len(held_out) > 0
    assert 0 <= record.metrics["image_auroc"] <= 1
    assert any(line.startswith("no good test samples: ") for line in reporter.lines)


def test_defects_without_masks_do_not_stop_a_training(own_data: Path, tmp_path: Path) -> None:
    for folder in own_data.glob("gear/test/hole/gt"):
        shutil.rmtree(folder)
    reporter = RecordingReporter()
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run", reporter)
    assert record.metrics is not None
    assert (record.metrics["without_mask"], record.metrics["image_auroc"] is None) == (1, False)
    assert "1 of 3 defective test samples have no mask: pixel figures leave them out" in reporter.lines


def test_mask_of_another_size_is_named(own_data: Path, tmp_path: Path) -> None:
    mask = next(p for p in sorted((own_data / "gear" / "test").glob("*/gt/*.png")) if p.parts[-3] != "good")
    write_image(mask, np.zeros((20, 20), np.uint8))
    recorder = RecordingReporter()
    record = fit(own_data, "gear", tiny_recipe(), tmp_path / "run", recorder)
    assert record.metrics is not None
    assert (record.metrics["samples"], record.metrics["without_mask"]) == (5, 1)
    assert any(str(mask) in line and "a mask of" in line for line in recorder.lines)


def test_too_few_samples(own_data: Path, tmp_path: Path) -> None:
    for path in sample_files(own_data, "train", "good", "rgb")[1:]:
        path.unlink()
    with pytest.raises(RunError, match="found 1 training and 3 held-out samples. Expected at least 2"):
        fit(own_data, "gear", tiny_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_held_out_samples_and_tampered_copies_are_kept(trained: object) -> None:
    run = load_run(trained("xyz"))  # type: ignore[operator]
    held_out = {sample.name: sample.inputs for sample in load_held_out(run.path)}
    assert [sample.tampered for sample in load_held_out(run.path)] == [False, True] * 3
    assert list(held_out) == [f"{i:02d}-{kind}" for i in range(3) for kind in ("good", "tampered")]
    for sample in run.golden:  # of the same three samples
        name, inputs = sample.name, sample.inputs
        assert inputs.keys() == held_out[f"0{name}"].keys() == set(run.detector.input_names)
        for key, value in inputs.items():
            assert torch.equal(held_out[f"0{name}"][key], value), (name, key)


@pytest.mark.parametrize(("there", "count"), [(3, 24), (24, 24), (25, 24), (100, 24), (7, 3)])
def test_evenly_spread_samples(there: int, count: int) -> None:
    chosen = evenly_spread(list(range(there)), count)  # type: ignore[arg-type]
    steps = {b - a for a, b in itertools.pairwise(chosen)}  # type: ignore[operator]
    assert chosen[0] == 0
    assert len(chosen) == len(set(chosen)) == min(there, count)
    assert max(steps) - min(steps) <= 1
    assert there - chosen[-1] <= max(steps) + 1  # type: ignore[operator]
