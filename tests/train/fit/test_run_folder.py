"""The folder of a run: one owner, no leftovers, and one line for every failure of the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.lock import LOCK_NAME, lock_folder
from cmdiad_train import tensor_files
from cmdiad_train.cli.data import cli as data_cli
from cmdiad_train.cli.train import cli
from cmdiad_train.fit import before
from cmdiad_train.fit import fit as fit_module
from cmdiad_train.fit.fit import CACHE, fit
from cmdiad_train.fit.run_folder import has_leftovers, remove_leftovers
from cmdiad_train.runs.record import read_record
from helpers import RecordingReporter, assert_refused, command, tiny_recipe
from runs import assert_whole, hashes

SMALL = ("--size", 112, "--rgb-grid", 14)


@pytest.mark.failure_mode("Two trainings into one folder at the same time")
def test_a_second_training_into_one_folder_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with lock_folder(run):
        ended = command(cli, data, *SMALL, "--out", run)
    assert_refused(ended, 6, run, "in use by another process")
    assert [path.name for path in run.iterdir()] == [LOCK_NAME]
    assert fit(data, "gear", tiny_recipe(), run).status == "complete"


def test_the_lock_of_another_process(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom cmdiad_runtime.support.lock import lock_folder\n"
        "with lock_folder(sys.argv[1]):\n    print('owned', flush=True)\n    sys.stdin.read()"
    )
    start = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None and owner.stdin is not None
        assert owner.stdout.readline() == "owned\n"
        with pytest.raises(OutputError, match="in use by another process"):
            fit(data, "gear", tiny_recipe(), tmp_path)
        owner.stdin.close()
    assert fit(data, "gear", tiny_recipe(), tmp_path).status == "complete"


def test_leftovers_of_killed_trainings_are_removed(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(data, "gear", tiny_recipe(), run)
    before = hashes(run)
    for name in (".banks.0123abcd.safetensors", ".run.89abcdef.json", ".tmpX9fY2z", "banks.checkpoint.safetensors"):
        (run / name).write_bytes(b"half")
    (run / ".notes").write_text("mine")
    (run / CACHE / "features").mkdir(parents=True)
    assert fit(data, "gear", tiny_recipe(), run).status == "complete"
    (run / ".notes").unlink()
    assert hashes(run) == before
    assert not (run / CACHE).exists()


def test_only_the_checkpoint_of_a_finished_network_is_a_leftover(tmp_path: Path) -> None:
    for name in ("first.safetensors", "first.checkpoint.safetensors"):
        (tmp_path / name).touch()
    assert has_leftovers(tmp_path)
    (tmp_path / "second.checkpoint.safetensors").touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.safetensors", "second.checkpoint.safetensors"]
    assert not has_leftovers(tmp_path)


@contextmanager
def failing_disk(number: int, after: int) -> Iterator[None]:
    """Let the safetensors file with this number fail as on a full or broken disk."""
    original, count = tensor_files.save_file, 0

    def save(*arguments: object) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise tensor_files.SafetensorError(f"I/O error: {os.strerror(number)} (os error {number})")
        original(*arguments)  # type: ignore[arg-type]

    with mock.patch.object(tensor_files, "save_file", save):
        yield


@pytest.mark.parametrize(
    ("after", "number"),
    [(0, errno.ENOSPC), (1, errno.EIO), (2, errno.EDQUOT), (3, errno.ENOSPC)],
)
def test_a_disk_that_fails_ends_with_one_line_and_the_training_resumes(
    data: Path, trained: Callable[..., Path], tmp_path: Path, number: int, after: int
) -> None:
    run = tmp_path / "run"
    with failing_disk(number, after), pytest.raises(OutputError) as refused:
        fit(data, "gear", tiny_recipe(), run, options=fit_module.FitOptions(features=tmp_path / "none" / "store"))
    assert os.strerror(number).lower() in str(refused.value)
    assert "resume" in str(refused.value)
    assert_whole(run)
    fit(data, "gear", tiny_recipe(), run)
    assert hashes(run) == hashes(trained("rgb"))


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, "Input/output error")])
def test_other_failures_are_one_line_too(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(fit_module, "save_export_inputs", mock.Mock(side_effect=error))
    ended = command(cli, data, *SMALL, "--out", tmp_path / "run")
    assert ended.code == 6
    assert ended.error
    assert_whole(tmp_path / "run")


def _mounted(folder: Path, size: str) -> bool:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return sys.platform == "linux" and subprocess.run(mount, check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "small"
    if not _mounted(folder, "3m"):
        pytest.skip("mounting needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_noticed_before_the_work(data: Path, small_disk: Path) -> None:
    ended = command(cli, data, *SMALL, "--out", small_disk / "run")
    assert_refused(ended, 6, small_disk / "run", "MB free", "--out")
    assert "features" not in ended.err
    assert list(small_disk.iterdir()) == []


@pytest.mark.failure_mode("A disk that fills up during a training")
def test_a_disk_that_fills_up_during_training(data: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (before, fit_module):
        monkeypatch.setattr(module, "check_space", lambda *_: None)
    ended = command(cli, data, *SMALL, "--out", small_disk / "run")
    assert_refused(ended, 6, "no space left on device")
    assert_whole(small_disk / "run")


@pytest.mark.parametrize("place", ["gear", "gear/test/hole", "gear/runs/a"])
def test_a_run_inside_the_data_is_refused(own_data: Path, place: str) -> None:
    before = sorted(own_data.rglob("*"))
    ended = command(cli, own_data, *SMALL, "--out", own_data / place)
    assert_refused(ended, 6, own_data / place, "inside the data set", "--out")
    assert sorted(own_data.rglob("*")) == before


def test_a_folder_that_is_no_run_is_refused_by_its_content(data: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "photo.png"):
        (tmp_path / name).touch()
    ended = command(cli, data, *SMALL, "--out", tmp_path)
    assert_refused(ended, 6, tmp_path, "contains notes.txt and 1 more", "--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "photo.png"]


def test_missing_parents_of_the_run_are_created(data: Path, tmp_path: Path) -> None:
    assert fit(data, "gear", tiny_recipe(), tmp_path / "a" / "b" / "run").status == "complete"


def test_weights_are_checked_before_samples_are_read(data: Path, tmp_path: Path) -> None:
    """Also those of the missing modality, which are used after the features of the other one."""
    ended = command(
        cli, data, *SMALL, "--hallucination", "f2f", "--surface-weights", tmp_path / "no.pth", "--out", tmp_path / "run"
    )
    assert_refused(ended, 7, tmp_path / "no.pth")
    assert "samples" not in ended.err
    assert not (tmp_path / "run").exists()


def test_an_unwritable_folder_is_noticed_at_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmdiad_train.fit.before.os.access", lambda *_: False)
    reporter = RecordingReporter()
    with pytest.raises(OutputError, match="no permission to write"):
        fit(data, "gear", tiny_recipe(), tmp_path / "run", reporter)
    assert reporter.steps == []


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text on this system")
def test_file_names_that_are_not_utf8(own_data: Path, tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        rgb = own_data / "gear" / split / "good" / "rgb"
        first = sorted(rgb.iterdir())[0]
        first.rename(rgb / os.fsdecode(b"teil_\xfc.png"))
    (own_data / "gear" / "train" / "good" / "rgb" / os.fsdecode(b"kaputt_\xe9.png")).write_bytes(b"no image")
    data = tmp_path / os.fsdecode(b"daten_\xfc")
    own_data.rename(data)
    run = tmp_path / "run"
    checked = command(data_cli, "check", data, "--json", tmp_path / "check.json")
    assert checked.code == 3
    ended = command(cli, data, *SMALL, "--out", run)
    assert ended.code == 0, ended.err
    for text in (ended.out, ended.err, checked.out, checked.err):
        text.encode("utf-8")
    record = read_record(run)
    assert "train/good/teil_\\xfc" in record.data.train
    assert [sample.name for sample in record.left_out] == ["train/good/kaputt_\\xe9"]
    (run / "run.json").read_text(encoding="utf-8")
    assert command(cli, data, *SMALL, "--out", run).code == 0  # the same run
    refused = command(cli, data, *SMALL, "--out", tmp_path / os.fsdecode(b"lauf_\xfc"))
    assert_refused(refused, 6, "lauf_\\xfc", "not UTF-8", "--out")
