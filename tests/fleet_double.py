"""A stand-in for the process that trains one detector: it copies a finished run, fails, dies or hangs as told.

`fleet_fleets.use_double` puts it in the place of `cmdiad_fleet.training.worker`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cmdiad_fleet.training.worker import serve

PLAN = "FLEET_DOUBLE"
"""Environment variable with a plan in JSON: the run and bundle to copy, and the behaviour of each category."""


def train(request: dict[str, Any]) -> None:
    """Behave as the plan says for the category of the request."""
    plan = json.loads(os.environ[PLAN])
    for name, arguments in request["steps"]:
        print("$", name, *arguments, flush=True)
    print("threads", os.environ["OMP_NUM_THREADS"], "devices", repr(os.environ.get("CUDA_VISIBLE_DEVICES")), flush=True)
    print("process", os.getpid(), "of", os.getppid(), flush=True)
    folder = Path(request["folder"])
    _misbehave(plan["behaviour"].get(folder.name, ""), folder)
    shutil.copytree(plan["run"], request["run"], dirs_exist_ok=True)
    for name, arguments in request["steps"]:
        if name == "cmdiad-export":
            shutil.copytree(plan["bundle"], arguments[arguments.index("--out") + 1])
    if request["evidence"]:
        evidence = {"separation": plan["separation"][folder.name], "rejected": 0.5, "samples": 6}
        Path(request["evidence"]).write_text(json.dumps(evidence), encoding="utf-8")


def _misbehave(behaviour: str, folder: Path) -> None:
    if behaviour == "error":
        print("error: data: found nothing. Expected samples. Add samples.", file=sys.stderr)
        sys.exit(7)
    if behaviour == "exception":
        raise ZeroDivisionError("the last line")
    if behaviour == "killed" or (behaviour == "killed once" and not (folder / "attempt").exists()):
        (folder / "attempt").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "trainer killed once" and not (folder / "attempt").exists():
        (folder / "attempt").write_text(str(os.getpid()), encoding="utf-8")
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if behaviour == "hangs":
        (folder / "attempt").touch()
        time.sleep(600)  # Until the parent closes the other end of stdin.


if __name__ == "__main__":
    serve(train)
