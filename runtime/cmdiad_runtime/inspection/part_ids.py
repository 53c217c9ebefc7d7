"""Ids of inspected parts: short names, unique within a folder of results, that any file system takes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cmdiad_runtime.inspection.digest_set import DigestSet

LONGEST_ID = 120
"""Largest number of UTF-8 bytes in an id, so that an id with a suffix fits into a file name everywhere."""

_DIGEST_DIGITS = 8
_UNSAFE = re.compile(r"[^\w.+=,@()\- ]")
"""Characters that a file system or a shell may not take; letters and digits of all scripts are safe."""


class PartIds:
    """Source of ids that are unique within a folder of results, also where upper and lower case are the same.

    Args:
        taken: Ids that are in use already.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = DigestSet()
        for identifier in taken:
            self._taken.add(identifier.casefold())
        self._numbers: dict[str, int] = {}

    def next(self, source: Path) -> str:
        """Return the id of the next part: up to three folders and the file stem, and a number if that is in use."""
        base = _base(source)
        identifier = base
        while identifier.casefold() in self._taken:
            number = self._numbers[base] = self._numbers.get(base, 1) + 1
            identifier = f"{base}-{number}"
        self._taken.add(identifier.casefold())
        return identifier


def _base(source: Path) -> str:
    folders = [part for part in source.parts[-4:-1] if part.strip("./\\")]
    name = _UNSAFE.sub("_", "-".join([*folders, source.stem])).strip(". ") or "part"
    if len(name.encode()) <= LONGEST_ID:
        return name
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:_DIGEST_DIGITS]
    end = name.encode()[-(LONGEST_ID - _DIGEST_DIGITS - 1) :].decode(errors="ignore")  # Stems differ in their ends.
    return f"{digest}-{end}"
