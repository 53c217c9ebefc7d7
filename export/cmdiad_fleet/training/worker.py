"""Train one detector in a separate process: `python -m cmdiad_fleet.training.worker REQUEST` with a request in JSON.

A crash, or a process that the system kills for its memory, fails this detector alone. The process ends with its
parent: the parent has the other end of stdin, which the system closes when the parent ends, however that happens.
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
from pathlib import Path
from typing import Any

import click

from cmdiad_fleet.training.fleet_file.options import TRAIN
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.command_line import run_command
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.output import say

_END_SECONDS = 5.0
"""Time that the commands have to end by themselves."""
_WAIT_SECONDS = 60.0
"""Time that an earlier process of the same detector, whose parent has died, has to end."""


def main() -> None:
    """Run the steps of the request, and end with the exit code of the first one that fails."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request = json.loads(sys.argv[1])
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
