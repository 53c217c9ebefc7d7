"""Runs that are killed, or whose disk fails, at any moment: nothing is lost but the sample in work."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import count_operations, fault_at, kill_at, random_moments, run_whole, temporary_files
from helpers import sample_files
from killed_runs import check_continued, check_stopped, expected_codes, inspect, stored_lines
from lanes import long

Cached = Callable[..., Path]


pytestmark = pytest.mark.slow


@pytest.fixture
def inputs(data: Path) -> list[Path]:
    """A few inputs."""
    return [*sample_files(data, "test", "good", "rgb"), *sample_files(data, "test", "hole", "rgb")]


@pytest.mark.parametrize("step", [7, long(1)])
def test_killed_at_operations_on_the_disk(exported: Cached, inputs: list[Path], tmp_path: Path, step: int) -> None:
    bundle = exported("rgb")
    operations = count_operations(inspect(bundle, tmp_path / "whole", inputs), tmp_path / "whole")
    assert operations > 12
    for number in range(1, operations + 1, step):
        out = tmp_path / str(number)
        ended = fault_at(inspect(bundle, out, inputs), "kill", number, out)
        assert ended.code == -signal.SIGKILL
        stored = check_stopped(ended, out, inputs)
        if number % 2:
            check_continued(bundle, out, inputs, stored)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.failure_mode("`kill -9`, SIGTERM, SIGHUP or Ctrl-C")
def test_killed_at_random_moments(exported: Cached, inputs: list[Path], tmp_path: Path, number: int) -> None:
    bundle = exported("rgb")
    seconds = run_whole(inspect(bundle, tmp_path / "whole", inputs)).seconds
    for index, moment in enumerate(random_moments(seconds, 1, seed=number)):
        out = tmp_path / str(index)
        ended = kill_at(inspect(bundle, out, inputs), moment, number)
        assert ended.code in expected_codes(number), ended.err
        stored = check_stopped(ended, out, inputs)
        assert number == signal.SIGKILL or not out.exists() or temporary_files(out) == []
        check_continued(bundle, out, inputs, stored)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signal_in_the_middle_keeps_results(
    exported: Cached, inputs: list[Path], tmp_path: Path, number: int, code: int
) -> None:
    """The signal is sent when the first verdict has been printed, among many more inputs."""
    out = tmp_path / "out"
    words = [sys.executable, "-c", "from cmdiad_runtime.cli.run import main; main()"]
    many = 60 * inputs
    process = subprocess.Popen(
        [*words, *map(str, inspect(exported("rgb"), out, many)[1:])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pipesize=4096,  # The run cannot end before the signal: its verdicts do not fit into the pipe.
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code, err
    lines = stored_lines(out)
    assert 1 <= len(lines) < len(many)
    assert f" of {len(many)} samples inspected, results in {out}" in err
    assert temporary_files(out) == []
    assert {f"overlays/{path.name}" for path in (out / "overlays").iterdir()} == {line["overlay"] for line in lines}


@pytest.mark.parametrize(("action", "step"), [("enospc", 4), ("eio", 4), long("enospc", 1)])
@pytest.mark.failure_mode("A full disk or a disk error while a picture is written")
def test_disk_that_fails_once_costs_a_picture_or_ends_the_run(
    exported: Cached, inputs: list[Path], tmp_path: Path, action: str, step: int
) -> None:
    bundle = exported("rgb")
    operations = count_operations(inspect(bundle, tmp_path / "whole", inputs), tmp_path / "whole")
    seen = set()
    for number in range(1, operations + 1, step):
        out = tmp_path / str(number)
        ended = fault_at(inspect(bundle, out, inputs), action, number, out)
        assert ended.code in (0, 6), ended.err
        stored = check_stopped(ended, out, inputs)
        lines = stored_lines(out)
        seen.add((ended.code, any(line["overlay_error"] for line in lines)))
        if ended.code == 0:
            assert stored == len(inputs)
            assert (
                len([line for line in lines if line["overlay_error"]])
                <= ended.err.count("the overlay cannot be written")
                <= 1
            )
        else:
            assert "error: " in ended.err
        assert temporary_files(out) == []
    assert {(0, True), (6, False)} <= seen  # some faults cost a picture only, others the run
