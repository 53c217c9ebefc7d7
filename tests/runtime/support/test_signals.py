"""SIGTERM and SIGHUP end a command like Ctrl-C, with exit codes by which a caller can tell them apart."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from cmdiad_runtime.errors import BundleError, OutputError
from cmdiad_runtime.support.command_line import run_command
from cmdiad_runtime.support.signals import ENDING, check_signals, ending_signals

COMMAND = """
import signal, sys, time
import click
from pathlib import Path
from types import SimpleNamespace
from cmdiad_runtime.support.command_line import run_command

if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

@click.command()
@click.argument("mode")
@click.argument("folder", type=click.Path(path_type=Path))
def cli(mode, folder):
    try:
        print("working", flush=True)
        sys.stdin.readline()
    finally:
        (folder / "tidied").touch()

run_command(cli, "tool")
"""


def end(folder: Path, *numbers: int, mode: str = "plain") -> tuple[int, str]:
    """Exit code and stderr of a command that receives signals at work; then its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, mode, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    for number in numbers:
        process.send_signal(number)
    _, err = process.communicate()
    return process.returncode, err


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (signal.SIGTERM, 143, "interrupted by SIGTERM"),
        (signal.SIGHUP, 129, "interrupted by SIGHUP"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_signal_ends_a_command_after_tidying_up(tmp_path: Path, number: int, code: int, text: str) -> None:
    assert end(tmp_path, number) == (code, f"\n{text}\n")  # click ends the line in which ^C was echoed
    assert (tmp_path / "tidied").exists()


def test_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    assert end(tmp_path, signal.SIGHUP, mode="nohup") == (0, "")


def test_two_signals_at_once_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmdiad_runtime.support.signals.time", SimpleNamespace(monotonic=lambda: 10.0))
    tidied = []
    with pytest.raises(KeyboardInterrupt), ending_signals() as ending:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            tidied.append(True)
    assert tidied
    assert (ending.exit_code, ending.text) == (143, "interrupted by SIGTERM")


def test_later_signal_interrupts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first interruption may get lost, for example in a destructor."""
    clock = iter([10.0, 13.0])
    monkeypatch.setattr("cmdiad_runtime.support.signals.time.monotonic", lambda: next(clock))
    with ending_signals() as ending:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
    assert ending.exit_code == 143


def test_lost_interruption_is_raised_again() -> None:
    check_signals()
    with ending_signals():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            check_signals()
    check_signals()


@pytest.mark.parametrize("error", [ImportError("odd"), SystemError("odd"), BundleError("b", found="a", action="c")])
def test_error_after_a_signal_is_the_end_by_the_signal(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """An import may turn the interruption into another error."""

    @click.command()
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise error from None

    with pytest.raises(SystemExit) as ended:
        run_command(work, "tool", [])
    assert ended.value.code == 143
    assert capsys.readouterr().err == "interrupted by SIGTERM\n"


def test_result_that_cannot_be_stored_is_reported_after_a_signal(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise OutputError("lines", found="a full disk", action="free some space")

    with pytest.raises(SystemExit) as ended:
        run_command(work, "tool", [])
    assert ended.value.code == 6
    assert "a full disk" in capsys.readouterr().err


def test_second_ctrl_c_always_counts() -> None:
    with ending_signals() as ending:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    assert (ending.exit_code, ending.text) == (130, "interrupted")


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with ending_signals():
        assert [signal.getsignal(number) for number in ENDING] != before
    assert [signal.getsignal(number) for number in ENDING] == before


def test_other_threads_change_nothing() -> None:
    def use(report: Callable[[int], None]) -> None:
        with ending_signals() as ending:
            report(ending.exit_code)

    codes: list[int] = []
    thread = threading.Thread(target=use, args=(codes.append,))
    thread.start()
    thread.join()
    assert codes == [130]
