"""Checks of run directories."""

from __future__ import annotations

import json
from pathlib import Path

from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.lock import LOCK_NAME
from cmdiad_train.runs.tensors import load_tensors


def hashes(run: Path) -> dict[str, str]:
    """Hash of every file of a run but its record, which holds versions and paths."""
    files = (p for p in run.rglob("*") if p.is_file() and p.name != "run.json")
    return {p.relative_to(run).as_posix(): sha256_of(p) for p in files}


def assert_whole(run: Path) -> None:
    """Every file that is there can be read, and no leftover of an unfinished write lies beside it."""
    for path in run.rglob("*"):
        assert path.name == LOCK_NAME or not path.name.startswith("."), path
        if path.suffix == ".safetensors":
            assert load_tensors(path)
        elif path.suffix == ".json":
            assert json.loads(path.read_text(encoding="utf-8"))
