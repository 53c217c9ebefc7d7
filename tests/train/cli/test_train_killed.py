"""Trainings that are stopped at some moments and operations; scripts/kill_trainings does the same at many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lanes import long

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "kill_trainings.py"


@pytest.mark.skipif(sys.platform != "linux", reason="trainings run in forks")
@pytest.mark.failure_mode("A killed training")
@pytest.mark.parametrize(
    ("training", "moments", "every"), [("bank", 1, 80), long("bank", 1, 10), long("rd", 1, 12), long("mtfi-trd", 0, 60)]
)
def test_stopped_trainings_resume_to_the_same_bytes(training: str, moments: int, every: int) -> None:
    options = ["--training", training, "--moments", str(moments), "--every", str(every)]
    ended = subprocess.run([sys.executable, str(SCRIPT), *options], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    assert [counts.get(name, 0) for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")] == [moments] * 4
    assert min(counts[f"{action} at an operation"] for action in ("kill", "enospc", "eio")) >= (1 if every > 20 else 2)
