"""Folders of one bundle, or one run, for each pattern of modalities. Recognised by a file, without reading content."""

from __future__ import annotations

import os
from pathlib import Path

PATTERNS = "patterns.json"
"""File with names and hashes of the bundles of all patterns."""
PATTERN_RUNS = "pattern-runs.json"
"""File that marks a folder of runs, one for each pattern, in folders named like the patterns."""


def is_pattern_bundle(folder: Path) -> bool:
    """Return True for the folder of a bundle for whichever sensors arrive."""
    return os.path.lexists(folder / PATTERNS) and not os.path.lexists(folder / "manifest.json")


def is_pattern_run(folder: Path) -> bool:
    """Return True for the folder of the runs that `cmdiad-train --modality any` wrote."""
    return (folder / PATTERN_RUNS).is_file()


def bundles_inside(folder: Path) -> list[Path]:
    """Return the ordinary bundles in the folder of a bundle for whichever sensors arrive, sorted."""
    return sorted(path.parent for path in folder.glob("*/manifest.json"))
