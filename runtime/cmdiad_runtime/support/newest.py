"""Default folders for runs and bundles, and the newest run or bundle in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cmdiad_runtime.errors import BundleError, RunError
from cmdiad_runtime.modalities import name_of
from cmdiad_runtime.names import SENSORS
from cmdiad_runtime.support.pattern_folder import PATTERN_RUNS, PATTERNS
from cmdiad_runtime.support.regular_file import read_regular

_LIMIT = 64 << 20  # bytes of a manifest or run record
RUNS = Path("runs")
"""Folder in which `cmdiad-train` creates runs, relative to the working directory."""
BUNDLES = Path("bundles")
"""Folder in which `cmdiad-export` creates bundles, relative to the working directory."""


def newest_bundle(folder: Path = BUNDLES, modality: str | None = None) -> Path:
    """Return the most recently exported bundle in a folder.

    Args:
        folder: Folder with bundles.
        modality: Modality that the bundle must have; None accepts any.

    Raises:
        BundleError: There is no such bundle.
    """
    manifests = [
        path
        for path in folder.glob("*/manifest.json")
        if not path.parent.name.startswith(".")  # An export that is running, or was killed.
        if modality is None or _modality(_read(path)) == modality
    ]
    if modality is None:
        manifests += [path for path in folder.glob(f"*/{PATTERNS}") if not path.parent.name.startswith(".")]
    if not manifests:
        kind = f"bundle for --modality {modality}" if modality else "bundle"
        action = "pass the path of a bundle, or create one with cmdiad-export"
        raise BundleError("", found=f"No {kind} found in the folder {folder}", action=action)
    return _newest(manifests)


def _modality(manifest: dict[str, Any]) -> str:
    """Return the name of the modality of a bundle from the JSON of its manifest, or "" without one."""
    settings = manifest.get("preprocessing")
    if not isinstance(settings, dict):
        return ""
    return name_of(settings.get("modality", ""), settings.get("image_modality", "rgb"))


def newest_run(folder: Path = RUNS) -> Path:
    """Return the most recently finished run in a folder, or the folder of the runs of all patterns, once all are.

    Args:
        folder: Folder with runs.

    Raises:
        RunError: There is no finished run.
    """
    records = [path for path in folder.glob("*/run.json") if not path.parent.name.startswith(".") and _complete(path)]
    for runs in folder.glob(f"*/{PATTERN_RUNS}"):
        of_patterns = [runs.with_name(pattern) / "run.json" for pattern in SENSORS]
        if not runs.parent.name.startswith(".") and all(map(_complete, of_patterns)):
            records += of_patterns
    if not records:
        action = "pass the path of a run, or create one with cmdiad-train"
        raise RunError("", found=f"No finished run found in the folder {folder}", action=action)
    newest = _newest(records)
    return newest if newest.parent == folder else newest.parent  # The run of a pattern stands for all patterns.


def newest_bundles(folder: Path) -> dict[str, Path]:
    """Return the most recently exported bundle of each category in a folder, by category, sorted.

    Raises:
        BundleError: There is no bundle with a category.
    """
    bundles = _by_category(folder.glob("*/manifest.json"), lambda record: record.get("provenance", {}).get("data", {}))
    if not bundles:
        action = "pass the folder of the bundles, or create them with cmdiad-export --category all"
        raise BundleError(folder, found="no bundle in this folder", expected="a folder of bundles", action=action)
    return bundles


def newest_runs(folder: Path = RUNS) -> dict[str, Path]:
    """Return the most recently finished run of each category in a folder, by category, sorted.

    Raises:
        RunError: There is no finished run.
    """
    runs = _by_category(
        folder.glob("*/run.json"),
        lambda record: record.get("data", {}) if record.get("status") == "complete" else {},
    )
    if not runs:
        action = "pass the folder of the runs, or create them with cmdiad-train --category all"
        raise RunError(folder, found="no finished run in this folder", expected="a folder of runs", action=action)
    return runs


def _by_category(files: Iterable[Path], data_of: Callable[[dict[str, Any]], Any]) -> dict[str, Path]:
    """Return the newest folder of each category among the folders of some records."""
    by_category: dict[str, list[Path]] = {}
    for path in files:
        data = data_of(_read(path))
        category = data.get("category") if isinstance(data, dict) else None
        if isinstance(category, str) and not path.parent.name.startswith("."):
            by_category.setdefault(category, []).append(path)
    return {category: _newest(by_category[category]) for category in sorted(by_category)}


def _complete(record: Path) -> bool:
    """Return True for the record of a finished run."""
    return bool(_read(record).get("status") == "complete")


def _newest(files: list[Path]) -> Path:
    return max(files, key=lambda path: (path.stat().st_mtime_ns, path.parent.name)).parent


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_regular(path, _LIMIT, follow=True))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
