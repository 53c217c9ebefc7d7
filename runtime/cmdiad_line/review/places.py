"""Places of candidates in the state folder: `candidates/NAME/`."""

from __future__ import annotations

from pathlib import Path

BUNDLE, PARTS, RECORD, REPLAY = "bundle.cmdiad", "parts", "candidate.json", "replay.json"


def candidates_folder(state: Path) -> Path:
    """Return the folder of all candidates."""
    return state / "candidates"


def candidate_folder(state: Path, name: str) -> Path:
    """Return the folder of a candidate, whose name has the form of a recipe id."""
    return candidates_folder(state) / name
