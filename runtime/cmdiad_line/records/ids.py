"""Acquisition ids that are never used twice, also after a power failure and with a new database.

Ids are reserved in blocks. The last id of the block is on the disk before the first one is used; ids that are left at
a restart are not used any more.
"""

from __future__ import annotations

import json
from pathlib import Path

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.records import is_number
from cmdiad_runtime.support.regular_file import read_regular

BLOCK = 1000
LARGEST_ID = 2**31 - 1
_FILE = "ids.json"
_LIMIT = 4096  # bytes


class AcquisitionIds:
    """The block of ids in use.

    Args:
        state: State folder of the station.
        last_id: Largest id in the records.

    Attributes:
        first: First id that this process may use.
        reserved: Last reserved id.

    Raises:
        OutputError: The file cannot be read or written, or all ids are used up.
    """

    def __init__(self, state: Path, last_id: int) -> None:
        self._path = state / _FILE
        self.reserved = max(reserved_ids(state), last_id)
        self.first = self.reserved + 1
        self.extend()

    def extend(self) -> None:
        """Reserve a further block.

        Raises:
            OutputError: The disk is full, or all ids are used up.
        """
        reserved = self.reserved + BLOCK
        if reserved > LARGEST_ID:
            raise OutputError(
                self._path,
                found="no free acquisition id",
                expected=f"ids up to {LARGEST_ID}",
                action="use a new state folder",
            )
        write_json(self._path, {"reserved": reserved})
        self.reserved = reserved


def reserved_ids(state: Path) -> int:
    """Return the last reserved id; 0 if none was ever reserved.

    Raises:
        OutputError: The file is damaged.
    """
    path = state / _FILE
    try:
        content = json.loads(read_regular(path, _LIMIT))
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    reserved = content.get("reserved") if isinstance(content, dict) else None
    if not isinstance(reserved, int) or not is_number(reserved, 1, LARGEST_ID):
        raise _damaged(path, f"{content!r:.60}")
    return reserved


def _damaged(path: Path, problem: str) -> OutputError:
    return OutputError(
        path,
        found=f"a damaged file ({problem})",
        expected='an object such as {"reserved": 5000}',
        action="write a number into the file that is larger than every id that the plant has seen",
    )
