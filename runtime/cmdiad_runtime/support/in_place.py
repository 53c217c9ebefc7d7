"""Check that a name still leads to the file that a process has opened.

POSIX systems let another program remove, move or replace an open file. Everything written afterwards would be lost
with the file, without an error. Windows keeps an open file in its place.
"""

from __future__ import annotations

import os
from pathlib import Path

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import cause_of


class FileInPlace:
    """An open file that must keep its name.

    On a file system that reports other numbers for a name than for the open file, nothing is compared but the
    existence of the name.

    Args:
        path: Name of the file.
        opened: Status of the open file.
    """

    def __init__(self, path: Path, opened: os.stat_result) -> None:
        self._path = path
        try:
            self._known: os.stat_result | None = opened if os.path.samestat(path.stat(), opened) else None
        except OSError:
            self._known = opened

    def require(self) -> None:
        """Check that the name leads to the open file.

        Raises:
            OutputError: The file was removed, moved or replaced, or the folder cannot be reached.
        """
        try:
            present = self._path.stat()
        except OSError as error:
            raise self._lost(f"an open file that was removed or moved ({cause_of(error)})") from error
        if self._known is not None and not os.path.samestat(present, self._known):
            raise self._lost("another file in place of the open one")

    def _lost(self, problem: str) -> OutputError:
        return OutputError(
            self._path,
            found=problem,
            expected="a folder that nobody removes, moves or replaces during a run",
            action="restore the folder or choose a new one, and inspect again the samples whose lines are missing",
        )
