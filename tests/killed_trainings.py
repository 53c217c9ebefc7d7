"""Trainings that are stopped in every way, for tests and for scripts/kill_trainings.

A training takes a second, but importing torch takes several. So each training runs in a fork of this process, which
has imported everything already. Signals and faults act in the fork as they do in a command.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import filelock  # noqa: F401 - every fork would import these again
import matplotlib.pyplot as plt  # noqa: F401

import cmdiad_train.fit.fit  # noqa: F401
from cmdiad_runtime.support.command_line import run_command
from cmdiad_train.cli.train import cli
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from faults import _Fault, flush_nothing, temporary_files
from runs import assert_whole, hashes

make_torchvision_importable()
import timm  # noqa: E402, F401 - needs the line above

family_of("bank")

OPTIONS = ("--view", "sensor", "--size", "64", "--rgb-grid", "8", "--device", "cpu")
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that ask a process to end."""
Stop = Callable[[int], None]
"""Receives the process of a training that has just started, and may stop it."""


def train(data: Path, run: Path, *, stop: Stop | None = None, fault: tuple[str, int] | None = None) -> int:
    """Train in a fork of this process and return the exit code; minus the number of the signal that ended it.

    Args:
        data: Data set.
        run: Run directory.
        stop: Function that may stop the process.
        fault: Action of `faults` and number of the operation on the run directory at which it acts.
    """
    process = _fork()
    if process == 0:
        _train_in_fork(data, run, fault)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if stop is not None:
        stop(process)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def _fork() -> int:
    """Fork with blocked signals, so that a signal never unwinds the stack of this process in the fork."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    return os.fork()


def after(seconds: float, number: signal.Signals) -> Stop:
    """Return a function that sends a signal after some seconds, unless the process has ended."""

    def stop(process: int) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.002)
        os.kill(process, number)

    return stop


def check_stopped(run: Path, number: int) -> None:
    """Check what a stopped training left: whole files, and unfinished ones only after SIGKILL."""
    if not run.exists():
        return
    left = [name for name in temporary_files(run) if not name.startswith("cache/")]
    assert number == signal.SIGKILL or not left, left
    assert len(left) <= 2, left  # of `atomic_write`, and of the package safetensors
    for name in left:
        (run / name).rename(run.parent / "left")
    assert_whole_without_cache(run)
    for name in left[:1]:
        (run.parent / "left").rename(run / name)


def check_resumed(data: Path, run: Path, expected: dict[str, str]) -> None:
    """Resume a stopped training, and check that the result is that of an undisturbed one, without leftovers."""
    assert train(data, run) == 0
    assert temporary_files(run) == []
    assert not (run / "cache").exists()
    assert hashes(run) == expected


def assert_whole_without_cache(run: Path) -> None:
    """Check that every file of a run outside of its cache can be read."""
    cache, aside = run / "cache", run.parent / "aside"
    if cache.exists():
        cache.rename(aside)
    assert_whole(run)
    if aside.exists():
        aside.rename(cache)


def _train_in_fork(data: Path, run: Path, fault: tuple[str, int] | None, report: Path | None = None) -> None:
    """Run the command and end the process. Never returns."""
    code, started = 99, False
    acting = _Fault(*(fault or ("count", 0)), str(run))
    try:
        for number in SIGNALS:  # as in a new process, not as in this one
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.environ["CMDIAD_CACHE"] = str(run.parent / "store")
        os.fsync = flush_nothing
        for name in ("write", "fsync", "ftruncate"):
            acting.on_descriptor(name)
        sys.addaudithook(acting.audit)
        started = True
        run_command(cli, "cmdiad-train", [str(data), *OPTIONS, "--out", str(run)])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 98
    except KeyboardInterrupt:
        code = 97 if started else 130  # before the command could react, as if Python were still starting
    finally:
        if report is not None:
            report.write_text(str(acting.count))
        os._exit(code)


def count_changes(data: Path, run: Path) -> int:
    """Train, and return the number of operations of the process that change something in the run directory."""
    report = run.parent / "operations"
    process = _fork()
    if process == 0:
        _train_in_fork(data, run, None, report)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.waitpid(process, 0)
    return int(report.read_text())
