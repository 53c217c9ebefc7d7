"""`cmdiad-run` at a line: what stops other programs must not stop it, and every way of asking gives one answer."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.cli.run import cli
from cmdiad_runtime.inspection.inputs import read_sample
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.printable import printable
from helpers import Ended, assert_refused, command, sample_files, truncate, write_image
from patience import LIMIT_S

Cached = Callable[..., Path]
PROGRAM = (sys.executable, "-c", "from cmdiad_runtime.cli.run import main; main()")


def process(*arguments: object, shell: str = 'exec "$@"') -> subprocess.CompletedProcess[str]:
    """Run the command as a process, with redirections of a shell."""
    words = ["sh", "-c", shell, "sh", *PROGRAM, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(words, check=False, capture_output=True, text=True, env=environment)


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="ascii").splitlines()]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def photo(data: Path) -> Path:
    return sample_files(data, "test", "good", "rgb")[0]


def alternating(photo: Path, count: int) -> list[Path]:
    """Two photos in turn: equal frames in a row would be reported as a frozen camera."""
    return [(photo, photo.with_name("001.png"))[number % 2] for number in range(count)]


@pytest.fixture
def mixed(data: Path, tmp_path: Path) -> list[Path]:
    """Good parts, defects, and files that cannot be used."""
    files = [*sample_files(data, "test", "good", "rgb"), *sample_files(data, "test", "contamination", "rgb")]
    empty = tmp_path / "empty.png"
    empty.touch()
    cut = truncate(Path(shutil.copy(files[0], tmp_path / "cut.png")))
    black = write_image(tmp_path / "black.png", np.zeros((112, 112, 3), np.uint8))
    return [files[0], empty, *files[1:], cut, black, tmp_path / "missing.png"]


def test_stdout_results_table_python_and_exit_code_agree(
    exported: Cached, mixed: Sequence[Path], tmp_path: Path
) -> None:
    bundle, out = exported("rgb"), tmp_path / "out"
    ended = command(cli, bundle, *mixed, "--output", out, "--csv")
    with Inspector.open(bundle) as inspector:
        for path, printed, line, row in zip(mixed, ended.out.splitlines(), results(out), rows(out), strict=True):
            verdict, score, name, reason = printed.split("\t")
            assert (verdict, name, reason) == (line["verdict"], line["input"], line["reason"] or "-")
            assert score == (f"{line['score']:.6g}" if line["inspected"] else "-")
            assert (row["verdict"], row["input"], row["reason"], row["id"]) == (
                verdict,
                name,
                line["reason"] or "",
                line["id"],
            )
            assert row["score"] == ("" if line["score"] is None else repr(line["score"]))
            if line["reason"] in ("unreadable", "missing-file", "unsupported"):
                continue
            inspection = inspector.inspect(read_sample(path, inspector.bundle.preprocessing))
            python = inspection.to_dict()
            for field in ("verdict", "reason", "message", "inspected", "score", "threshold", "map_max"):
                assert line[field] == python[field], field
    assert any(line["verdict"] == "OK" for line in results(out))
    assert ended.code == 3
    assert sum(line["inspected"] for line in results(out)) == len(mixed) - 4
    assert f"{len(mixed) - 4} of {len(mixed)} samples inspected" in ended.err
    assert all(line["inspected"] or line["verdict"] == "NG" for line in results(out))


def test_bundle_and_engine_in_each_line(exported: Cached, photo: Path, tmp_path: Path) -> None:
    bundle = exported("rgb")
    assert command(cli, bundle, photo, "--output", tmp_path / "out").code == 0
    (line,) = results(tmp_path / "out")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert (line["bundle"], line["bundle_sha256"]) == (manifest["name"], manifest["manifest_sha256"])
    assert "onnxruntime" in line["engine"]


# --- the folder of results ---------------------------------------------------------------------------------------


@pytest.mark.failure_mode("A second run into the same folder")
def test_second_run_is_refused_or_appended(exported: Cached, photo: Path, tmp_path: Path) -> None:
    bundle, out = exported("rgb"), tmp_path / "out"
    assert command(cli, bundle, photo, "--output", out).code == 0
    refused = command(cli, bundle, photo, "--output", out)
    assert_refused(refused, 6, out, "results of an earlier run", "--append")
    assert refused.out == ""
    assert len(results(out)) == 1
    assert command(cli, bundle, photo, "--output", out, "--append", "--csv").code == 0
    assert len(results(out)) == len(rows(out)) == 2


@pytest.mark.parametrize("option", ["--append", "--csv"])
def test_options_of_the_output_need_an_output(exported: Cached, photo: Path, option: str) -> None:
    assert command(cli, exported("rgb"), photo, option).code == 2


@contextmanager
def running(bundle: Path, inputs: Sequence[Path], out: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in another process that has printed its first verdict and waits for the names of the other inputs."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [*PROGRAM, str(bundle), "-", "--output", str(out)]
    run = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert run.stdin is not None and run.stdout is not None
    run.stdin.write(f"{inputs[0]}\n")
    run.stdin.flush()
    assert run.stdout.readline()
    yield run
    run.communicate("".join(f"{path}\n" for path in inputs[1:]))


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.failure_mode("Two runs into one folder at the same time")
def test_two_runs_never_share_a_folder(exported: Cached, photo: Path, tmp_path: Path, append: bool) -> None:
    out = tmp_path / "out"
    many = alternating(photo, 40)
    with running(exported("rgb"), many, out) as run:
        ended = command(cli, exported("rgb"), photo, "--output", out, *["--append"] * append)
        assert_refused(ended, 6, out, "in use by another process")
        assert ended.out == ""
    assert run.returncode == 0
    assert len(results(out)) == 40


def test_output_inside_the_input_folder_is_no_input(exported: Cached, photo: Path, tmp_path: Path) -> None:
    shutil.copy(photo, tmp_path / "part.png")
    bundle = exported("rgb")
    assert command(cli, bundle, tmp_path, "--output", tmp_path / "out").code == 0
    again = command(cli, bundle, tmp_path, "--output", tmp_path / "out", "--append")
    assert "skipped: 1 results of cmdiad" in again.err.splitlines()
    assert len(results(tmp_path / "out")) == 2


@pytest.mark.failure_mode("Results into the folder of the inputs")
def test_output_that_is_the_input_folder_is_refused(exported: Cached, photo: Path, tmp_path: Path) -> None:
    shutil.copy(photo, tmp_path / "part.png")
    (tmp_path / "link").symlink_to(tmp_path)
    for inputs in ([tmp_path], [tmp_path / "link"], ["--watch", tmp_path]):
        ended = command(cli, exported("rgb"), *inputs, "--output", tmp_path)
        assert_refused(ended, 6, tmp_path, "a folder of pictures or clouds to inspect")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "part.png"]


def test_lost_overlays_are_reported_once_and_counted(
    exported: Cached, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Inspection) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Inspection, "overlay", fail)
    ended = command(cli, exported("rgb"), *[photo] * 3, "--output", tmp_path / "out", "--frozen-after", 9)
    assert ended.code == 0
    assert ended.err.count("the overlay cannot be written (no space left on device)") == 1
    assert f"\n3 of 3 samples inspected, results in {tmp_path / 'out'}, 3 overlays lost\n" in ended.err


# --- names -------------------------------------------------------------------------------------------------------


NAMES = (os.fsdecode(b"teil_\xfc.png"), "a\nOK\t0.1\tb.png\t-.png", "x\x1b[1A.png", "=1+1.png")
BROKEN = (
    'exec "$@" >/dev/full',
    'exec "$@" >&-',
    'exec "$@" 2>/dev/full',
    'exec "$@" 2>&-',
    'exec "$@" >&- 2>&-',
    '("$@"; echo $? >&2) | :',
)
"""Redirections of a shell that break stdout or stderr."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.failure_mode("A file name with line breaks or of other bytes than UTF-8")
def test_names_of_any_bytes(exported: Cached, photo: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photo, folder / name)
    shutil.copy(photo, folder / f"~bad{name}")
    truncate(folder / f"~bad{name}")
    ended = process(exported("rgb"), folder, "--output", tmp_path / "out", "--csv")
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr
    good, bad = ended.stdout.splitlines()
    assert good.split("\t")[2] == printable(folder / name)
    assert bad.split("\t")[::2] == ["NG", printable(folder / f"~bad{name}")]
    assert [line["input"] for line in results(tmp_path / "out")] == [good.split("\t")[2], bad.split("\t")[2]]
    assert len(rows(tmp_path / "out")) == 2
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 2


def test_narrow_terminal_encoding(exported: Cached, photo: Path, tmp_path: Path) -> None:
    shutil.copy(photo, tmp_path / "größe.png")
    ended = process(exported("rgb"), tmp_path, shell='PYTHONIOENCODING=ascii exec "$@"')
    assert ended.returncode == 0, ended.stderr
    assert "gr\\xf6\\xdfe.png" in ended.stdout


def test_long_names_get_a_shortened_overlay(exported: Cached, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 158) / ("b" * 158)
    folder.mkdir(parents=True)
    for number in (1, 2):
        shutil.copy(photo, folder / f"{'c' * 150}{number}.png")
    ended = command(cli, exported("rgb"), tmp_path / ("a" * 158), "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    first, second = results(tmp_path / "out")
    assert first["overlay"] != second["overlay"]
    assert (tmp_path / "out" / first["overlay"]).exists() and (tmp_path / "out" / second["overlay"]).exists()


# --- streams, disks and time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", BROKEN)
@pytest.mark.failure_mode("A closed standard output")
def test_broken_streams_do_not_stop_the_inspection(exported: Cached, photo: Path, tmp_path: Path, shell: str) -> None:
    ended = process(exported("rgb"), *alternating(photo, 3), "--output", tmp_path / "out", shell=shell)
    assert len(results(tmp_path / "out")) == 3
    assert ended.returncode == 0
    if shell.endswith("| :"):
        assert ended.stderr.splitlines()[-1] == "0"


def test_verdicts_that_nobody_gets_are_no_success(exported: Cached, photo: Path) -> None:
    ended = process(exported("rgb"), photo, photo, shell='exec "$@" >/dev/full')
    assert ended.returncode == 6
    assert "2 of 2 samples inspected" in ended.stderr
    assert "error: stdout: found an output that cannot be written to (no space left on device)." in ended.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB. Needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.failure_mode("A full disk while a result is stored")
def test_full_disk_ends_the_run_without_a_lost_line(
    exported: Cached, photo: Path, tmp_path: Path, small_disk: Path
) -> None:
    out = small_disk / "out"
    ended = process(exported("rgb"), *alternating(photo, 400), "--output", out)
    assert ended.returncode == 6, ended.stderr
    assert "no space left on device" in ended.stderr.splitlines()[-1]
    stored = results(out)
    assert len(stored) == len(ended.stdout.splitlines()) < 400
    assert any(line["overlay_error"] for line in stored)  # pictures were lost first, and nothing else
    lost = sum(line["overlay_error"] is not None for line in stored)
    assert ended.stderr.count("the overlay cannot be written") == 1
    assert f", {lost} overlays lost" in ended.stderr
    shutil.copytree(out, tmp_path / "copy")
    assert command(cli, exported("rgb"), photo, "--output", tmp_path / "copy", "--append").code == 0
    assert len(results(tmp_path / "copy")) == len(stored) + 1


def start_of_slow_process() -> str:
    """Program of a reading process that takes for ever for files with "slow" in their names."""
    from cmdiad_runtime.readers import worker

    return worker._START.replace(
        "main()",
        "import time; from cmdiad_runtime.readers import reading, worker_process\n"
        "real = worker_process.read_files\n"
        "def slow(name, rgb, xyz, **more):\n"
        "    if 'slow' in str(rgb): time.sleep(600)\n"
        "    return real(name, rgb, xyz, **more)\n"
        "worker_process.read_files = slow\n"
        "main()",
    )


@pytest.mark.failure_mode("A file that takes too long to read")
def test_slow_file_is_ng_and_the_others_are_inspected(
    exported: Cached, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmdiad_runtime.readers import worker

    ask = worker._Process.ask

    def ask_patiently(process: Any, request: dict[str, Any], timeout_s: float) -> Any:
        """Apply the limit to the slow file only: a slow machine needs longer for the others."""
        return ask(process, request, timeout_s if "slow" in request["rgb"] else LIMIT_S)

    monkeypatch.setattr(worker, "_START", start_of_slow_process())
    monkeypatch.setattr(worker._Process, "ask", ask_patiently)
    slow = Path(shutil.copy(photo, tmp_path / "slow.png"))
    ended = command(cli, exported("rgb"), photo, slow, photo, "--input-timeout", 1, "--output", tmp_path / "out")
    assert ended.code == 3, ended.err
    assert [line["reason"] == "timeout" for line in results(tmp_path / "out")] == [False, True, False]
    assert "longer than 1 s" in ended.err


@pytest.mark.parametrize("wait_s", [0, 2])  # in the second case the command waits for the slow file
def test_signal_does_not_wait_for_a_slow_file(exported: Cached, photo: Path, tmp_path: Path, wait_s: int) -> None:
    program = (
        f"from cmdiad_runtime.readers import worker; worker._START = {start_of_slow_process()!r}\n"
        "from cmdiad_runtime.cli.run import main; main()"
    )
    slow = Path(shutil.copy(photo, tmp_path / "slow.png"))
    words = [sys.executable, "-c", program, exported("rgb"), photo, slow, "--input-timeout", 600]
    with subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith(("OK", "NG"))
        time.sleep(wait_s)
        running.send_signal(signal.SIGTERM)
        try:
            _, err = running.communicate(timeout=LIMIT_S)
        finally:
            running.kill()
    assert running.returncode == 143, err


def test_no_limit_reads_in_this_process(exported: Cached, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmdiad_runtime.readers import worker

    with_limit: Ended = command(cli, exported("rgb"), photo)
    monkeypatch.delattr(worker.TimedReader, "__init__")
    without = command(cli, exported("rgb"), photo, "--input-timeout", 0)
    assert (without.code, without.out) == (0, with_limit.out)


@pytest.mark.failure_mode("An engine that fails")
def test_engine_that_fails_keeps_what_was_stored(
    exported: Cached, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmdiad_runtime.engines.onnx_runtime import OnnxRuntimeEngine
    from cmdiad_runtime.errors import EngineError

    real, calls = OnnxRuntimeEngine.run, []

    def fail(self: OnnxRuntimeEngine, inputs: Any) -> Any:
        calls.append(True)
        if len(calls) == 3:
            raise EngineError("engine", found="a fault", action="check the device")
        return real(self, inputs)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", fail)
    ended = command(cli, exported("rgb"), *alternating(photo, 5), "--output", tmp_path / "out")
    assert_refused(ended, 5, "a fault")
    assert len(results(tmp_path / "out")) == len(ended.out.splitlines()) == 2
