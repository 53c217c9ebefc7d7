"""Error that reports all mistakes of a station file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.toml_file.mistakes import Mistake, MistakesError


class StationFileError(MistakesError):
    """A station file has mistakes.

    Args:
        path: The station file.
        mistakes: All mistakes, at least one.
    """

    def __init__(self, path: Path, mistakes: Sequence[Mistake]) -> None:
        super().__init__(path, mistakes, f"correct the file and run: cmdiad-line check {printable(path)}")
