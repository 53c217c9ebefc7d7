"""The name of a session, from the folder of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmdiad_runtime.modalities import TABLE
from cmdiad_runtime.printable import printable
from cmdiad_runtime.readers.labels import SPLITS, label_of_folder

_UNNAMED = frozenset({*SPLITS, *(name for modality in TABLE.values() for name in modality.folders)})
"""Names of folders, in lower case, that say nothing about a session; nor does a name that says good or bad."""
_LONGEST_NAME = 100


def session_name(folder: Path, taken: Sequence[str]) -> str:
    """Return the name of a new session: that of the folder, or of the nearest one above if a layout sets the name.

    Args:
        folder: Folder of the good parts, for example `tuesday/good/rgb`.
        taken: Names of other sessions; a number makes the name different from these.
    """
    parts = folder.absolute().parts[1:]
    meaningful = [part for part in parts if part.lower() not in _UNNAMED and label_of_folder(part) is None]
    name = printable(meaningful[-1])[:_LONGEST_NAME] if meaningful else "session"
    return next(c for c in (name, *(f"{name} ({n})" for n in range(2, len(taken) + 3))) if c not in taken)
