"""The file `prepare.json` that marks a data set written by `cmdiad-data prepare`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.records import NewerRecordError, fields_from_json, require, require_object, require_text

PREPARED = "prepare.json"
"""Name of the file at the top of a prepared data set."""
COMPLETE = "complete"
"""State of a category whose samples are all prepared."""
UNFINISHED = "unfinished"
"""State of a category whose preparation was interrupted."""


@dataclass(frozen=True)
class PreparedNote:
    """The content of `prepare.json`.

    Attributes:
        settings: Everything that the copies depend on, as JSON-ready values.
        categories: COMPLETE or UNFINISHED by category name.
        made_by: Note to the reader of the file.

    Raises:
        RecordError: A value has the wrong kind, or there is no such state.
    """

    settings: dict[str, Any]
    categories: dict[str, str]
    made_by: str = "cmdiad-data prepare: the background is removed from the clouds already, train with --no-foreground"

    def __post_init__(self) -> None:
        require_object(self, "settings")
        require_object(self, "categories")
        known = all(state in (COMPLETE, UNFINISHED) for state in self.categories.values())
        require(known, self, "categories", f"{COMPLETE} or {UNFINISHED} by category")
        require_text(self, "made_by")

    @staticmethod
    def from_json(value: object) -> PreparedNote:
        """Read the note that `to_json` wrote; raises RecordError, or NewerRecordError for an unknown field."""
        return PreparedNote(**fields_from_json(PreparedNote, value))

    def to_json(self) -> dict[str, Any]:
        """Return the note as a JSON object."""
        return {
            "made_by": self.made_by,
            "settings": self.settings,
            "categories": dict(sorted(self.categories.items())),
        }


def read_prepared(root: Path) -> PreparedNote | None:
    """Return the note of a prepared data set, or None if the data set is not prepared.

    Args:
        root: Folder of the data set.

    Raises:
        RunError: The file is damaged, or a newer cmdiad wrote it.
    """
    path = Path(root) / PREPARED
    if not path.is_file():
        return None
    try:
        return PreparedNote.from_json(json.loads(path.read_text(encoding="utf-8")))
    except NewerRecordError as error:
        raise RunError(path, found=f"{error}: made by a newer cmdiad", action="Update cmdiad") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            path,
            found=f"a file that cannot be read (damaged: {error})",
            expected="the file that cmdiad-data prepare writes",
            action="Prepare the data set again in a new folder",
        ) from error
