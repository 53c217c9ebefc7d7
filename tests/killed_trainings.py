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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import filelock  # noqa: F401 - every fork would import these again
import matplotlib.pyplot as plt  # noqa: F401

import cmdiad_train.fit.fit  # noqa: F401
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.command_line import run_command
from cmdiad_train.cli.train import cli
from cmdiad_train.detectors import network_training
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.detectors.trd import recipe_options
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.recipe import TrdRecipe
from cmdiad_train.training.loss_plot import plot_losses
from faults import _Fault, flush_nothing, temporary_files
from runs import assert_whole, hashes

make_torchvision_importable()
import timm  # noqa: E402, F401 - needs the line above

COMMON = ("--view", "sensor", "--size", "64", "--device", "cpu")
NETWORKS = (*COMMON, "--family", "trd", "--rgb-backbone", "test_resnet", "--epochs", "1", "--batch", "3")
OPTIONS = {
    "bank": (*COMMON, "--rgb-grid", "8"),
    "rd": (*NETWORKS, "--variant", "rd"),
    "mtfi-trd": (*NETWORKS, "--variant", "mtfi-trd"),
}
"""Options of the trainings by name. Those of networks write a checkpoint after every epoch."""
for family in ("bank", "trd"):
    family_of(family)
with TemporaryDirectory() as folder:
    plot_losses(Path(folder) / "losses.png", [1.0], [1.0])  # every fork would load the fonts again

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that ask a process to end."""
Stop = Callable[[int], None]
"""Receives the process of a training that has just started, and may stop it."""


@dataclass(frozen=True)
class Training:
    """A small training.

    Attributes:
        data: Data set.
        name: Name in OPTIONS.
    """

    data: Path
    name: str


def train(training: Training, run: Path, *, stop: Stop | None = None, fault: tuple[str, int] = ("count", 0)) -> int:
    """Train in a fork of this process and return the exit code; minus the number of the signal that ended it.

    Messages are checked: exactly one line states an error if the training ended with one, and none is a traceback.
    A training that gets a signal is not checked for tracebacks. If the signal arrives while Python deletes an object,
    Python prints a traceback and continues.

    Args:
        training: The training.
        run: Run directory.
        stop: Function that may stop the process.
        fault: Action of `faults` and number of the operation on the run directory at which it acts.
    """
    process = _fork()
    if process == 0:
        _train_in_fork(training, run, fault)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if stop is not None:
        stop(process)
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    messages = _messages(run).read_text() if _messages(run).exists() else ""
    assert stop is not None or "Traceback" not in messages, messages
    errors = [line for line in messages.splitlines() if line.startswith("error: ")]
    assert len(errors) == (code == OutputError.exit_code), messages
    return code


def _messages(run: Path) -> Path:
    """Return the file of what a training prints."""
    return run.parent / "messages"


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


def check_resumed(training: Training, run: Path, expected: dict[str, str]) -> None:
    """Resume a stopped training, and check that the result is that of an undisturbed one, without leftovers."""
    assert train(training, run) == 0
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


def _train_in_fork(training: Training, run: Path, fault: tuple[str, int]) -> None:
    """Run the command and end the process. Never returns."""
    code, started = 99, False
    acting = _Fault(*fault, str(run))
    try:
        for number in SIGNALS:  # as in a new process, not as in this one
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        messages = os.open(_messages(run), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(messages, 1)
        os.dup2(messages, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.environ["CMDIAD_CACHE"] = str(run.parent / "store")
        os.fsync = flush_nothing
        network_training.CHECKPOINT_SECONDS = 0
        recipe_options.TrdRecipe = partial(TrdRecipe, fine_tune_epochs=2)  # type: ignore[assignment,misc]
        for name in ("write", "fsync", "ftruncate"):
            acting.on_descriptor(name)
        sys.addaudithook(acting.audit)
        started = True
        run_command(cli, "cmdiad-train", [str(training.data), *OPTIONS[training.name], "--out", str(run)])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 98
    except KeyboardInterrupt:
        code = 97 if started else 130  # before the command could react, as if Python were still starting
    finally:
        _operations(run).write_text(str(acting.count))
        os._exit(code)


def _operations(run: Path) -> Path:
    """Return the file with the number of operations on the run directory of the last training that was not killed."""
    return run.parent / "operations"


def count_changes(training: Training, run: Path) -> int:
    """Train undisturbed, and return the number of operations of the process that change something in the run."""
    assert train(training, run) == 0
    return int(_operations(run).read_text())
