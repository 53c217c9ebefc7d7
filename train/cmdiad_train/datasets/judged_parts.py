"""Parts that people judged in the review of a station: the folder `parts` of a candidate (docs/candidates.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import Modality
from cmdiad_train.datasets.layouts.listing import Listing, find_modality, list_defect

PARTS = "parts"
"""Folder of the judged parts in a candidate."""
Judgement = Literal["good", "bad"]


def judged_folder(candidate: Path) -> Path:
    """Return the folder with the judged parts of a candidate.

    Args:
        candidate: Folder of the candidate, or its folder `parts`.

    Raises:
        RunError: There are no parts that were judged good.
    """
    folder = candidate / PARTS if (candidate / PARTS).is_dir() else candidate
    if not (folder / "good").is_dir():
        raise RunError(
            folder,
            found="no parts that were judged good",
            expected="the folder of a candidate, with parts/good/rgb or parts/good/xyz",
            action="Judge parts in the review, then run: cmdiad-line candidate make STATION NAME",
        )
    return folder


def list_judged(parts: Path, judgement: Judgement, required: tuple[Modality, ...]) -> Listing:
    """Return the parts with a judgement, and the problems of those without one of the required modalities.

    Args:
        parts: Folder of the judged parts, see `judged_folder`.
        judgement: "good" or "bad", the name of the folder.
        required: Modalities that every part must have.
    """
    folder = parts / judgement
    return list_defect(candidate_name(parts), judgement, {name: find_modality(folder, name) for name in required}, None)


def candidate_name(folder: Path) -> str:
    """Return the name of a candidate from its folder or from its folder `parts`."""
    place = folder.resolve()
    return place.parent.name if place.name == PARTS else place.name
