"""Process that trains detectors: `python -m cmdiad_fleet.training.worker`, with requests in JSON as lines on stdin.

It imports the libraries once. Each detector is trained in a forked process, so a crash, or the system that kills a
process for its memory, fails this detector alone. The answer on stdout is the exit code, one line for each request.

All processes end with their parent: the parent has the other end of stdin, which the system closes when the parent
ends, however that happens.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from cmdiad_fleet.training.fleet_file.options import TRAIN
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.command_line import run_command
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.output import say

_LIBRARIES = ("torch", "timm", "onnxscript", "cmdiad_train.fit.fit", "cmdiad_export.bundle_writer")
"""Slow imports of a training and an export that start no thread: a fork has only the thread that calls it.

scikit-learn starts one. ONNX Runtime is imported by the module of its engine alone.
"""
_END_SECONDS = 5.0
"""Time that the commands have to end by themselves."""
_WAIT_SECONDS = 60.0
"""Time that an earlier process of the same detector, whose parent has died, has to end."""


def main() -> None:
    """Import the libraries of a training, then train the detectors of all requests."""
    with suppress(ImportError):  # The training names the package that is missing, and the remedy.
        import_libraries()
    serve(train)


def import_libraries() -> None:
    """Import what all trainings need."""
    from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable

    make_torchvision_importable()
    for name in _LIBRARIES:
        import_module(name)


def serve(train: Callable[[dict[str, Any]], None]) -> None:
    """Fork a process for each request, and answer with its exit code, negative for a signal.

    Args:
        train: Function that trains the detector of a request, with its output in the log.
    """
    answers = os.dup(sys.stdout.fileno())
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        process = os.fork() if request["fork"] else 0
        if process == 0:
            if request["fork"]:
                os.close(answers)
            _write_into(request["log"])
            threading.Thread(target=_end_with_parent, daemon=True).start()
            train(request)
            return
        _, status = os.waitpid(process, 0)
        with suppress(BrokenPipeError):  # The parent has ended. Then stdin ends, too.
            os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _write_into(log: str) -> None:
    """Let the log be stdout and stderr of this process."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    os.close(file)


def train(request: dict[str, Any]) -> None:
    """Run the steps of a request, and end with the exit code of the first one that fails."""
    with lock_folder(request["folder"], wait_s=_WAIT_SECONDS):
        check_recipes(request)
        for name, arguments in request["steps"]:
            _run(name, arguments)
        if request["evidence"]:
            _write_evidence(Path(request["evidence"]), request)


def check_recipes(request: dict[str, Any]) -> None:
    """End the process unless the options mean the same recipe here as on the machine of the command.

    The default of `--extractor` depends on the weights that are stored on a machine.
    """
    from cmdiad_train.cli.train import cli, recipes_of

    recipes = recipes_of(cli.make_context(TRAIN, [request["data"], *request["options"]]))
    here = json.loads(json.dumps({name: recipe.to_json() for name, recipe in recipes.items()}))
    if here != request["recipes"]:
        error = RunError(
            f"recipe on {platform.node()}",
            found="other extractors than on the machine of the command",
            expected="the same stored weights on all machines",
            action="run cmdiad-extractor fetch on each machine, or name --extractor in the recipe",
        )
        say(f"error: {error}")
        sys.exit(error.exit_code)


def _run(name: str, arguments: list[str]) -> None:
    say(f"$ {name} {shlex.join(arguments)}")
    try:
        run_command(_command(name), name, arguments)
    except SystemExit as ended:
        if ended.code:
            raise


def _command(name: str) -> click.Command:
    if name == TRAIN:
        from cmdiad_train.cli.train import cli

        return cli
    from cmdiad_export.cli import cli as export

    return export


def _write_evidence(file: Path, request: dict[str, Any]) -> None:
    """Write the criterion of a trial, from held-out samples and changed copies of them."""
    from dataclasses import asdict

    from cmdiad_train.fit.best_family import evidence_of, held_out_samples
    from cmdiad_train.runs.run import load_run

    run = load_run(Path(request["run"]))
    held_out = held_out_samples(Path(request["data"]), request["category"], run.record.asked)
    write_json(file, asdict(evidence_of(run, held_out)))


def _end_with_parent() -> None:
    """Wait until the other end of stdin is closed; then interrupt this process, and end it if that is not enough."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_SECONDS)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
