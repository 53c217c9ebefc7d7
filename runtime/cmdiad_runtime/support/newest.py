"""The newest run or bundle, for commands that are given none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cmdiad_runtime.errors import BundleError, CmdiadError, RunError


def newest_bundle(folder: Path, modality: str | None = None) -> Path:
    """The most recently exported bundle under `folder`, of a modality if one is given; BundleError without."""
    kind = f"a bundle for --modality {modality}" if modality else "a bundle"
    paths = [
        p.parent
        for p in folder.glob("*/manifest.json")
        if modality is None or _read(p).get("preprocessing", {}).get("modality") == modality
    ]
    return _newest(folder, paths, "manifest.json", BundleError, kind, "name one, or run cmdiad-export")


def newest_run(folder: Path) -> Path:
    """The most recently finished run under `folder`; RunError without."""
    paths = [p.parent for p in folder.glob("*/run.json") if _read(p).get("status") == "complete"]
    return _newest(folder, paths, "run.json", RunError, "a finished run", "name one, or run cmdiad-train")


def _newest(folder: Path, paths: list[Path], marker: str, error: type[CmdiadError], kind: str, action: str) -> Path:
    if not paths:
        raise error(folder, found="none", expected=kind, action=action)
    return max(paths, key=lambda p: ((p / marker).stat().st_mtime_ns, p.name))


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
