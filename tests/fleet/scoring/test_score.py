"""`cmdiad-fleet score` with processes of this machine: rows, bad samples, kills, continued runs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from cmdiad_fleet.cli.fleet import cli
from cmdiad_fleet.scoring.local_workers import LocalWorkers
from cmdiad_fleet.scoring.replies import Reply, Worker
from cmdiad_fleet.scoring.score import Scored, ScoreOptions, score_manifest
from cmdiad_fleet.scoring.scorer import Scorer, make_folders
from cmdiad_fleet.scoring.shards import cut
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.cli.run import cli as run_cli
from cmdiad_runtime.engines.batch import BatchEngine
from cmdiad_runtime.errors import InputError, OutputError
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.inspection.ready import Ready, make_ready
from cmdiad_runtime.readers import read_rgb
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.lock import lock_folder
from fleet_workers import VOLATILE, DyingWorker, plain_rows, settings_for, stored_rows, write_manifest
from helpers import RecordingReporter, assert_refused, command, sample_files, truncate
from patience import LIMIT_S

Exported = Callable[..., Path]
OPTIONS = ScoreOptions(opening=OpenOptions(), shard_rows=3, workers=1)


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Path:
    """A bundle for RGB."""
    return exported("rgb")


@pytest.fixture(scope="module")
def images(data: Path) -> list[Path]:
    """Images of good and bad parts."""
    return [path for defect in ("good", "hole", "contamination") for path in sample_files(data, "test", defect, "rgb")]


def rows_of(images: list[Path], count: int) -> list[dict[str, Any]]:
    """Rows of a manifest; images are repeated, but never in a row."""
    return [{"id": f"part/{n}", "rgb": str(images[n % len(images)])} for n in range(count)]


def score(bundle: Path, manifest: Path, out: Path, make: Any = LocalWorkers, options: ScoreOptions = OPTIONS) -> Scored:
    """Score a manifest with processes of this machine."""
    return score_manifest(bundle, str(manifest), out, options, make, RecordingReporter())


@pytest.fixture(scope="module")
def scored(bundle: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of ten good rows, in a folder with their manifest. Tests that change the files copy them."""
    folder = tmp_path_factory.mktemp("scored")
    manifest = write_manifest(folder / "m.jsonl", rows_of(images, 10))
    score(bundle, manifest, folder / "out", options=replace(OPTIONS, workers=2))
    return folder


def test_rows_are_those_of_cmdiad_run(scored: Path, bundle: Path, images: list[Path], tmp_path: Path) -> None:
    named = [images[n % len(images)] for n in range(10)]
    assert command(run_cli, bundle, *named, "--output", tmp_path / "run", "--no-overlays").code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    expected = [
        {name: value for name, value in line.items() if name not in VOLATILE}
        | {"id": f"part/{n}", "ignored_share": None}
        for n, line in enumerate(lines)
    ]
    assert stored_rows(scored / "out") == expected


def test_one_file_for_each_shard_and_nothing_else(scored: Path) -> None:
    out = scored / "out"
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    shards = [f"results/0000{n}.parquet" for n in range(4)]
    assert names == [".cmdiad.lock", *shards, "score.json", "summary.json"]
    assert [pyarrow.parquet.read_metadata(out / name).num_rows for name in shards] == [3, 3, 3, 1]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["rows"], summary["not_inspected"]) == (10, 0)
    assert summary["ok"] + summary["ng"] == 10


def test_a_finished_run_scores_nothing_again(scored: Path, bundle: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (scored / "out" / "results").iterdir()}
    again = score(bundle, scored / "m.jsonl", scored / "out", make=_NoWorkers)
    assert (again.scored, again.tally.rows) == (0, 10)
    assert {path: path.stat().st_mtime_ns for path in (scored / "out" / "results").iterdir()} == before


class _NoWorkers(LocalWorkers):
    """Workers that must not be started."""

    def start(self) -> int:
        raise AssertionError("nothing to score")


@pytest.mark.failure_mode("A URL whose server does not answer")
@pytest.mark.failure_mode("A row of a manifest without a place for the image")
def test_bad_samples_are_rows_with_their_reason(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(images[0].read_bytes())
    truncate(damaged)
    rows: list[dict[str, Any]] = [
        {"id": "good", "rgb": str(images[0])},
        {"id": "damaged", "rgb": "damaged.png"},
        {"id": "missing", "rgb": "nothing.png"},
        {"id": "folder", "rgb": "."},
        {"id": "nul", "rgb": "a\0b.png"},
        {"id": "absent"},
        {"id": "twice", "rgb": str(images[0])},
        {"id": "twice", "rgb": str(images[1])},
        {"rgb": str(images[0])},
        {"id": "server", "rgb": "http://127.0.0.1:1/a.png"},
        {"id": "last", "rgb": str(images[1])},
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    ended = command(cli, "score", bundle, tmp_path / "m.jsonl", "--out", tmp_path / "out", "--pictures", "all")
    assert ended.code == 3, ended.err
    stored = stored_rows(tmp_path / "out")
    assert [(row["id"], row["reason"]) for row in stored if not row["inspected"]] == [
        ("damaged", "unreadable"),
        ("missing", "missing-file"),
        ("folder", "not-a-file"),
        ("nul", stored[4]["reason"]),
        ("absent", "missing-modality"),
        ("twice", "duplicate-id"),
        ("twice", "duplicate-id"),
        ("", "no-id"),
        ("server", "unreadable"),
    ]
    assert all(row["verdict"] == "NG" and row["message"] for row in stored if not row["inspected"])
    drawn = {row["overlay"] for row in stored if row["overlay"]}
    assert drawn == {f"pictures/00000/{row['id']}.png" for row in stored if row["inspected"] and row["verdict"] == "NG"}
    assert drawn == {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert f"{sum(row['inspected'] for row in stored)} of 11 samples inspected" in ended.err
    assert "NG\tduplicate-id\t2" in ended.out.splitlines()


@pytest.mark.failure_mode("A sample that ends the process that inspects it")
def test_a_sample_that_kills_its_process_costs_one_row(
    scored: Path, bundle: Path, images: list[Path], tmp_path: Path
) -> None:
    rows = rows_of(images, 10)
    rows[4]["id"] = "deadly"
    result = score(bundle, write_manifest(tmp_path / "m.jsonl", rows), tmp_path / "out", _dying)
    stored = stored_rows(tmp_path / "out")
    assert result.lost_workers == 2
    assert (stored[4]["id"], stored[4]["verdict"], stored[4]["reason"]) == ("deadly", "NG", "out-of-memory")
    assert stored[:4] + stored[5:] == [row for row in stored_rows(scored / "out") if row["id"] != "part/4"]


def _dying(settings: Any) -> LocalWorkers:
    return LocalWorkers(settings, DyingWorker)


BATCH = replace(OPTIONS, shard_rows=7, batch=True)
"""Batches of three rows, of which the last of a shard is short."""


def test_rows_of_batches_are_those_of_one_sample_at_a_time(batched: Path, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "damaged.png").write_bytes(b"nothing")
    rows = rows_of(images, 13)
    rows[1]["rgb"] = rows[3]["rgb"] = "damaged.png"
    rows[4]["rgb"] = rows[5]["rgb"] = "missing.png"
    rows[9]["id"] = rows[10]["id"] = "twice"
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    score(batched, manifest, tmp_path / "one", options=replace(BATCH, batch=False, pictures=None))
    ended = score(batched, manifest, tmp_path / "batch", options=replace(BATCH, pictures=None))
    one, several = stored_rows(tmp_path / "one"), stored_rows(tmp_path / "batch")
    assert list(map(_without_digits, several)) == list(map(_without_digits, one))
    for name in ("score", "map_max"):
        scored_rows = [(a[name], b[name]) for a, b in zip(several, one, strict=True) if b["inspected"]]
        assert [a for a, _ in scored_rows] == pytest.approx([b for _, b in scored_rows], rel=1e-5)
    assert [n for n, row in enumerate(several) if not row["inspected"]] == [1, 3, 4, 5, 9, 10]
    assert (ended.tally.rows, ended.tally.inspected) == (13, 7)
    names = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png")}
    assert names == {path.relative_to(tmp_path / "batch") for path in (tmp_path / "batch").rglob("*.png")}


def _without_digits(row: dict[str, Any]) -> dict[str, Any]:
    """A row without scores, whose last digits may differ in batches."""
    text = "" if row["inspected"] else row["message"]
    return row | {"score": None, "map_max": None, "message": text}


def test_frozen_frames_are_counted_across_batches(batched: Path, images: list[Path], tmp_path: Path) -> None:
    rows = [{"id": n, "rgb": str(images[0] if 1 <= n < 6 else images[1])} for n in range(7)]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    score(batched, manifest, tmp_path / "out", options=replace(BATCH, opening=OpenOptions(frozen_after=3)))
    assert [n for n, row in enumerate(stored_rows(tmp_path / "out")) if row["reason"] == "frozen"] == [3, 4, 5]


@pytest.mark.failure_mode("A sample that ends a process while other samples are in the same batch")
def test_a_death_in_a_batch_costs_one_row(batched: Path, images: list[Path], tmp_path: Path) -> None:
    rows = rows_of(images, 4)
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    score(batched, manifest, tmp_path / "expected", options=BATCH)
    shown = _EndingEngine.shown_in(batched, images[1])
    result = score(batched, manifest, tmp_path / "out", partial(_ending, shown), BATCH)
    stored, expected = stored_rows(tmp_path / "out"), stored_rows(tmp_path / "expected")
    ended = [n for n, row in enumerate(stored) if row["reason"] == "out-of-memory"]
    assert ended == [n for n, row in enumerate(rows) if row["rgb"] == str(images[1])]
    assert [row for n, row in enumerate(stored) if n not in ended] == [
        row for n, row in enumerate(expected) if n not in ended
    ]
    assert result.lost_workers == 2 * len(ended) + 1  # The first death was in a batch, and blamed its last row.


class _EndingEngine(BatchEngine):
    """An engine for several samples whose process is killed by one picture."""

    def __init__(self, engine: Any, deadly: bytes) -> None:
        super().__init__(engine, engine.size)
        self._batch, self._deadly = engine, deadly

    @staticmethod
    def shown_in(bundle: Path, image: Path) -> bytes:
        """The network input of an image."""
        opened = Bundle.open(bundle)
        ready = make_ready(Sample("part", rgb=read_rgb(image)), opened)
        assert isinstance(ready, Ready)
        return ready.parts[0].inputs["rgb"].tobytes()

    def run_each(self, samples: Sequence[Any]) -> Any:
        if any(sample["rgb"].tobytes() == self._deadly for sample in samples):
            os.kill(os.getpid(), signal.SIGKILL)
        return self._batch.run_each(samples)


class _EndingWorker(Worker):
    """A worker with an `_EndingEngine`."""

    def __init__(self, deadly: bytes) -> None:
        super().__init__()
        self._deadly = deadly

    def open(self, settings: Any) -> Reply:
        reply = super().open(settings)
        assert self._scorer is not None
        inspector = self._scorer._inspector
        inspector.engine = _EndingEngine(inspector.engine, self._deadly)
        return reply


def _ending(deadly: bytes, settings: Any) -> LocalWorkers:
    return LocalWorkers(settings, partial(_EndingWorker, deadly))


def test_a_batch_needs_its_graph_before_anything_is_written(
    bundle: Path, batched: Path, scored: Path, tmp_path: Path
) -> None:
    arguments = [scored / "m.jsonl", "--out", tmp_path / "out", "--batch"]
    assert_refused(command(cli, "score", bundle, *arguments), 4, "no graph for several samples", "--batch 8")
    assert_refused(command(cli, "score", batched, *arguments, "--device", "auto"), 5, "one sample at a time")
    assert not (tmp_path / "out").exists()


def test_results_with_and_without_batches_are_not_mixed(batched: Path, images: list[Path], tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", rows_of(images, 2))
    score(batched, manifest, tmp_path / "out", options=BATCH)
    with pytest.raises(OutputError, match="another batch"):
        score(batched, manifest, tmp_path / "out", options=replace(BATCH, batch=False))


def test_a_killed_run_continues_with_the_same_rows(scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (  # Nobody asks the worker for a third shard, so that the run does not end before it is killed.
        "import time; from cmdiad_fleet.scoring.local_workers import LocalWorkers; send = LocalWorkers.send\n"
        "def first_two(workers, worker, shard, endings):\n"
        "    time.sleep(600 if shard.number == 2 else 0)\n"
        "    send(workers, worker, shard, endings)\n"
        "LocalWorkers.send = first_two\n"
        "from cmdiad_fleet.cli.fleet import main; main()"
    )
    arguments = ["score", bundle, scored / "m.jsonl", "--out", out, "--shard-rows", "3", "--workers", "1"]
    with subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + LIMIT_S
        while not list(out.glob("results/0*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("results/0*.parquet")}
    assert 1 <= len(finished) <= 2
    ended = command(cli, *arguments)
    assert ended.code == 0, ended.err
    assert stored_rows(out) == stored_rows(scored / "out")
    assert {name: (out / "results" / name).stat().st_mtime_ns for name in finished} == finished
    assert not [path for path in out.rglob(".*") if path.name != ".cmdiad.lock"]


def test_a_run_that_was_killed_during_the_check_continues(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".check-0123abcd").mkdir(parents=True)
    (out / ".score.0123abcd.json").write_text("{")
    result = score(bundle, write_manifest(tmp_path / "m.jsonl", rows_of(images, 1)), out)
    assert result.tally.rows == 1
    assert not [path for path in out.rglob(".*") if path.name != ".cmdiad.lock"]


def test_a_process_ends_with_its_driver(bundle: Path, tmp_path: Path) -> None:
    """A driver that is killed leaves no process that writes into the folder of the next one."""
    code = (
        "import multiprocessing, sys, time; from pathlib import Path; "
        "from cmdiad_fleet.scoring.local_workers import LocalWorkers; from fleet_workers import settings_for; "
        "workers = LocalWorkers(settings_for(Path(sys.argv[1]), Path(sys.argv[2]))); workers.start(); "
        "(process,) = multiprocessing.active_children(); print(process.pid, flush=True); "
        "workers.wait(600); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(bundle), str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as driver:
        assert driver.stdout is not None
        worker = int(driver.stdout.readline())
        driver.kill()
    deadline = time.monotonic() + LIMIT_S
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{worker}").exists()


def test_interruption_tells_how_to_continue(scored: Path, bundle: Path, tmp_path: Path) -> None:
    class Interrupted(LocalWorkers):
        def send(self, *arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    from unittest import mock

    with mock.patch("cmdiad_fleet.scoring.local_workers.LocalWorkers", Interrupted):
        ended = command(cli, "score", bundle, scored / "m.jsonl", "--out", tmp_path / "out", "--workers", 1)
    assert ended.code == 130
    assert "run the same command again to continue" in ended.err


def test_a_folder_of_another_run_is_refused(scored: Path, bundle: Path, images: list[Path], tmp_path: Path) -> None:
    arguments = ["score", bundle, scored / "m.jsonl", "--out", scored / "out", "--shard-rows", 3]
    assert_refused(command(cli, *arguments, "--threshold", 99), 6, "another threshold", "out-2 is free")
    other = write_manifest(tmp_path / "m.jsonl", rows_of(images, 11))
    arguments[2] = other
    assert_refused(command(cli, *arguments), 6, "another manifest_sha256, rows")


def test_a_folder_with_other_files_is_refused(scored: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    ended = command(cli, "score", bundle, scored / "m.jsonl", "--out", tmp_path)
    assert_refused(ended, 6, "other files (holiday.jpg)")


def test_two_runs_into_one_folder_are_refused(scored: Path, bundle: Path) -> None:
    with lock_folder(scored / "out"):
        ended = command(cli, "score", bundle, scored / "m.jsonl", "--out", scored / "out", "--shard-rows", 3)
    assert_refused(ended, 6, "in use by another process")


def test_a_damaged_file_of_results_is_written_again(scored: Path, bundle: Path) -> None:
    expected = stored_rows(scored / "out")
    truncate(scored / "out" / "results" / "00002.parquet")
    result = score(bundle, scored / "m.jsonl", scored / "out")
    assert (result.scored, result.tally.rows) == (3, 10)
    assert stored_rows(scored / "out") == expected


def test_results_that_must_be_written_again_have_no_summary(scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(scored / "out", out)
    truncate(out / "results" / "00002.parquet")
    with pytest.raises(AssertionError, match="nothing to score"):
        score(bundle, scored / "m.jsonl", out, make=_NoWorkers)
    assert not (out / "summary.json").exists()


def test_a_manifest_that_changes_during_the_run_ends_it(
    bundle: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", rows_of(images, 2))
    start = LocalWorkers.start

    def changing(self: LocalWorkers) -> int:
        write_manifest(manifest, rows_of(images, 2)[::-1])
        return start(self)

    monkeypatch.setattr(LocalWorkers, "start", changing)
    ended = command(cli, "score", bundle, manifest, "--out", tmp_path / "out", "--workers", 1)
    assert_refused(ended, 3, "another content than at the start")
    assert not (tmp_path / "out" / "summary.json").exists()


def test_rows_of_a_manifest_that_was_another_one_for_a_while_are_scored_again(
    bundle: Path, images: list[Path], tmp_path: Path
) -> None:
    rows = rows_of(images, 2)
    manifest = write_manifest(tmp_path / "m.jsonl", rows)

    def changing(settings: Any) -> LocalWorkers:
        write_manifest(manifest, rows[::-1])
        return LocalWorkers(settings)

    with pytest.raises(InputError, match="another content"):
        score(bundle, manifest, tmp_path / "out", changing)
    write_manifest(manifest, rows)
    assert score(bundle, manifest, tmp_path / "out").scored == 2
    assert [row["id"] for row in stored_rows(tmp_path / "out")] == ["part/0", "part/1"]


def test_a_manifest_that_was_moved_refers_to_other_files(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    for name, image in (("first", images[0]), ("second", images[1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.png").symlink_to(image)
        manifest = write_manifest(tmp_path / name / "m.jsonl", [{"id": "a", "rgb": "part.png"}])
        assert score(bundle, manifest, tmp_path / "out").scored == 1
    assert [row["input"] for row in stored_rows(tmp_path / "out")] == [str(tmp_path / "second" / "part.png")]


def test_results_under_the_name_of_another_shard_are_written_again(scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(scored / "out", out)
    shutil.copy(out / "results" / "00000.parquet", out / "results" / "00001.parquet")
    assert score(bundle, scored / "m.jsonl", out).scored == 3
    assert stored_rows(out) == stored_rows(scored / "out")


def test_an_unusable_bundle_or_manifest_is_refused(bundle: Path, scored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_refused(command(cli, "score", tmp_path, scored / "m.jsonl", "--out", out), 4, "manifest.json")
    assert_refused(command(cli, "score", bundle, tmp_path / "m.csv", "--out", out), 3, "no such file")
    assert_refused(
        command(cli, "score", bundle, scored / "m.jsonl", "--out", bundle / "out"), 6, "a place in the bundle"
    )


@pytest.mark.parametrize("existing", [False, True])
def test_a_refused_manifest_leaves_no_trace(existing: bool, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if existing:
        out.mkdir()
    manifest = tmp_path / "m.csv"
    manifest.write_text("id,photo\npart,1.png\n", encoding="utf-8")
    assert_refused(command(cli, "score", bundle, manifest, "--out", out), 3, "0 columns 'rgb'")
    assert out.exists() == existing
    assert not existing or not list(out.iterdir())


def test_a_run_without_a_result_leaves_no_trace(bundle: Path, scored: Path, tmp_path: Path) -> None:
    """A refused command leaves no file in the folder, because the next command may have other options."""
    out = tmp_path / "out"
    refused = command(cli, "score", bundle, scored / "m.jsonl", "--out", out, "--device", "tensorrt", "--workers", 1)
    assert refused.code == 5, refused.err
    assert not out.exists()


def test_a_folder_that_somebody_else_has_put_there_stays(
    bundle: Path, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"

    def replace_folder(*_: object) -> None:
        out.rename(moved)
        (out / "results").mkdir(parents=True)
        (out / "score.json").write_text("of another run")
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("cmdiad_fleet.scoring.score._require_few_shards", replace_folder)
    assert command(cli, "score", bundle, scored / "m.jsonl", "--out", out).code == 6
    assert (out / "results").is_dir() and (out / "score.json").read_text() == "of another run"


def test_a_refused_manifest_leaves_the_results_of_another_one(scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(scored / "out", out)
    before = sorted(out.rglob("*"))
    assert_refused(command(cli, "score", bundle, tmp_path / "m.csv", "--out", out), 3, "no such file")
    assert sorted(out.rglob("*")) == before


def full_disk(*arguments: Any) -> None:
    """Fail as a write to a full disk does, which names no file."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_without_the_package_for_results_nothing_is_written(
    bundle: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"id,rgb\npart,{images[0]}\n", encoding="utf-8")
    ended = command(cli, "score", bundle, manifest, "--out", tmp_path / "out")
    assert_refused(ended, 5, "needs the package 'pyarrow'", 'pip install "cmdiad[fleet]"')
    assert not (tmp_path / "out").exists()


@pytest.mark.failure_mode("A disk that becomes full while samples of a manifest are scored")
def test_a_full_disk_is_an_error_about_the_folder(
    bundle: Path, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdiad_fleet.manifest.check._mark_duplicates", full_disk)
    ended = command(cli, "score", bundle, scored / "m.jsonl", "--out", tmp_path / "out", "--workers", 1)
    assert_refused(ended, 6, str(tmp_path / "out"), "no space left on device", "Free some space")


def test_a_full_disk_of_a_worker_is_no_fault_of_the_engine(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folders(tmp_path)
    monkeypatch.setattr("cmdiad_fleet.scoring.mark.os.pwrite", full_disk)
    shard = next(cut(plain_rows(1), 1))
    with closing(Scorer(settings_for(bundle, tmp_path))) as scorer, pytest.raises(OutputError, match="no space left"):
        scorer.score(shard, {})


def test_too_many_files_of_results_are_refused(
    bundle: Path, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdiad_fleet.scoring.score.MOST_SHARDS", 4)
    ended = command(cli, "score", bundle, scored / "m.jsonl", "--out", tmp_path / "out", "--shard-rows", 2)
    assert_refused(ended, 3, "5 files of results", "--shard-rows 3 or more")


@pytest.mark.parametrize(
    "options",
    [
        ["--threshold", "1", "--false-reject-rate", "0.1"],
        ["--address", "127.0.0.1:1"],
        ["--gpu-share", "0.5"],
        ["--pictures", "some"],
        ["--pictures", "-1"],
    ],
)
def test_contradictions_are_usage_errors(options: list[str], bundle: Path, scored: Path, tmp_path: Path) -> None:
    assert command(cli, "score", bundle, scored / "m.jsonl", "--out", tmp_path / "out", *options).code == 2
