"""`cmdiad-train --calibration`: good samples of another session set the thresholds, copies of others do not."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.options import ExportOptions
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.cli.threshold import cli as threshold_cli
from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.cli.train import cli
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.run import load_calibration, load_run
from helpers import (
    RecordingReporter,
    assert_refused,
    command,
    read_image,
    sample_files,
    tiny_recipe,
    truncate,
    write_image,
)


@pytest.fixture(scope="module")
def tuesday(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good parts of another day: six training pictures, a little brighter."""
    folder = tmp_path_factory.mktemp("days") / "tuesday"
    folder.mkdir()
    for path in sample_files(data, "train", "good", "rgb"):
        write_image(folder / path.name, np.clip(read_image(path).astype(int) + 1, 0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tuesday: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    fit(data, None, tiny_recipe(), run, options=FitOptions(calibration=(tuesday,)))
    return run


def test_sessions_are_recorded_with_their_scores(run: Path, tuesday: Path) -> None:
    calibration = load_calibration(run)
    training, other = calibration.by_session
    assert (training.session.name, other.session.name, len(other.scores)) == ("training", "tuesday", 6)
    assert len(training.session.contents) == 6 + 3
    assert "largest of 2 sessions" in calibration.method
    record = read_record(run)
    assert record.data.sessions == (str(tuesday.resolve()),)
    assert [name for name in record.data.held_out if name.startswith("tuesday/good/")] == list(record.data.held_out[3:])


def test_scores_are_those_of_the_bundle(run: Path, tuesday: Path, tmp_path: Path) -> None:
    """Training and the command on the line score the same files alike, and recognise them."""
    bundle = tmp_path / "parts.cmdiad"
    write_bundle(load_run(run), bundle, ExportOptions("fp32"), SILENT)
    ended = command(threshold_cli, bundle, "--good", tuesday)
    assert ended.code == 0, ended.err
    assert "all 6 good parts are recorded already" in ended.err
    opened = Bundle.open(bundle)
    assert opened.calibration == load_calibration(run)
    from cmdiad_runtime.inspection.inputs import read_sample

    with Inspector.open(bundle) as inspector:
        files = sorted(tuesday.iterdir())
        scores = [inspector.inspect(read_sample(path, opened.preprocessing)).score for path in files]
    np.testing.assert_allclose(opened.calibration.by_session[1].scores, scores, rtol=1e-4)


def test_finished_run_belongs_to_its_sessions(run: Path, data: Path, tuesday: Path) -> None:
    before = (run / "run.json").read_bytes()
    fit(data, None, tiny_recipe(), run, options=FitOptions(calibration=(tuesday,)))
    with pytest.raises(OutputError, match=r"\(new: no --calibration\).*--out .*run-2 is free") as refused:
        fit(data, None, tiny_recipe(), run)
    assert "--verdict" not in str(refused.value)
    assert (run / "run.json").read_bytes() == before


def test_run_without_sessions_has_no_new_field(trained: object, data: Path) -> None:
    run = trained("rgb")  # type: ignore[operator]
    assert "sessions" not in json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
    assert [s.name for s in load_calibration(run).sessions] == ["training"]


def test_folder_that_is_named_twice_counts_once(data: Path, tuesday: Path, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    options = FitOptions(calibration=(tuesday, tuesday / ".." / "tuesday"))
    fit(data, None, tiny_recipe(), tmp_path / "run", reporter, options)
    assert sum("is named twice and counts once" in line for line in reporter.lines) == 1
    assert [s.samples for s in load_calibration(tmp_path / "run").sessions][1:] == [6]


def test_copies_of_training_samples_are_no_other_session(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wednesday"
    shutil.copytree(data / "gear" / "train" / "good" / "rgb", folder)
    with pytest.raises(RunError, match="belong to several sessions: wednesday/good/000"):
        fit(data, None, tiny_recipe(), tmp_path / "run", options=FitOptions(calibration=(folder,)))


def test_too_few_usable_samples_are_refused(data: Path, tuesday: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuesday, tmp_path / "monday"))
    for path in sorted(folder.iterdir())[:2]:
        truncate(path)
    with pytest.raises(RunError, match="found 4 good samples of another session .* at least 5"):
        fit(data, None, tiny_recipe(), tmp_path / "run", options=FitOptions(calibration=(folder,)))


def test_samples_that_are_named_as_bad_are_refused(data: Path, tuesday: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuesday, tmp_path / "monday"))
    next(folder.iterdir()).rename(folder / "nok_3.png")
    with pytest.raises(RunError, match="names say that they are bad: nok_3"):
        fit(data, None, tiny_recipe(), tmp_path / "run", options=FitOptions(calibration=(folder,)))


def test_both_modalities_in_their_folders(data: Path, tmp_path: Path) -> None:
    good = tmp_path / "friday" / "good"
    for kind in ("rgb", "xyz"):
        shutil.copytree(data / "gear" / "train" / "good" / kind, good / kind)
    for path in sorted((good / "rgb").iterdir()):
        write_image(path, np.clip(read_image(path).astype(int) + 1, 0, 255).astype(np.uint8))
    fit(data, None, tiny_recipe("both"), tmp_path / "run", options=FitOptions(calibration=(good,)))
    assert [(s.name, s.samples) for s in load_calibration(tmp_path / "run").sessions][1:] == [("friday", 6)]
    with pytest.raises(RunError, match="no xyz file"):
        options = FitOptions(calibration=(good / "rgb",))
        fit(data, None, tiny_recipe("both"), tmp_path / "other", options=options)


def test_command_names_threshold_warnings_and_the_next_command(
    data: Path, tuesday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--size", 112, "--rgb-grid", 14, "--coreset", 0.2, "--view", "sensor")
    ended = command(cli, data, *small, "--out", "my run")
    assert ended.code == 0, ended.err
    calibration = load_calibration(Path("my run"))
    lines = ended.err.splitlines()[-4:]
    assert lines[0].startswith(f"threshold: {calibration.score_threshold:.6g} for a false-reject rate of 0.05, ")
    assert lines[1] == f"warning: {calibration.warning}"
    assert lines[2].startswith("warning: all held-out good samples are of the training data.")
    assert lines[3] == "next: cmdiad-export 'my run'"
    named = re.search(r"To add good parts of another day: cmdiad-train (.+), or after", lines[2])
    assert named is not None
    arguments = [str(tuesday) if word == "DIR" else word for word in shlex.split(named[1])]
    assert arguments[-4:] == ["--out", "my run-2", "--calibration", str(tuesday)]
    further = command(cli, *arguments)
    assert further.code == 0, further.err
    assert "all held-out good samples are of the training data" not in further.err
    missing = command(cli, data, *small, "--out", "third", "--calibration", tmp_path / "no")
    assert_refused(missing, 7, tmp_path / "no", "no such folder")
