"""The file `prepare.json` that marks a data set written by `cmdiad-data prepare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cmdiad_runtime.errors import RunError

PREPARED = "prepare.json"
"""Name of the file at the top of a prepared data set."""
COMPLETE = "complete"
"""State of a category whose samples are all prepared."""
UNFINISHED = "unfinished"
"""State of a category whose preparation was interrupted."""


def read_prepared(root: Path) -> dict[str, dict[str, Any]] | None:
    """Return the settings and the states of the categories of a prepared data set, or None if it is not prepared.

    Args:
        root: Folder of the data set.

    Returns:
        `settings` and `categories`, the latter with COMPLETE or UNFINISHED by category name.

    Raises:
        RunError: The file cannot be read.
    """
    path = Path(root) / PREPARED
    if not path.is_file():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": dict(note["settings"]), "categories": dict(note["categories"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            path,
            found=f"a file that cannot be read ({type(error).__name__})",
            expected="the file that cmdiad-data prepare writes",
            action="Prepare the data set again in a new folder",
        ) from error
