"""Line numbers of sections and keys in a TOML text, for messages. `tomllib` reports none."""

from __future__ import annotations

import re

_SECTION = re.compile(r"\s*\[(\[?)\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(r"\s*[\"']?([A-Za-z0-9_.-]+)[\"']?\s*=")


class Lines:
    """Places of sections and keys in a TOML text.

    A key that is written in another way (in an inline table, or with a dotted name) has the line of its table or
    section. The numbers are only shown; no value is read from them.

    Args:
        text: Content of the file.
    """

    def __init__(self, text: str) -> None:
        self._places: dict[tuple[str, int, str], int] = {}
        counts: dict[str, int] = {}
        section, index = "", 0
        for number, line in enumerate(text.splitlines(), 1):
            header, key = _SECTION.match(line), _KEY.match(line)
            if header:
                section = header.group(2)
                index = counts.get(section, 0)
                counts[section] = index + 1
                self._places[section, index, ""] = number
            elif key:
                self._places.setdefault((section, index, key.group(1)), number)

    def of(self, section: str, key: str = "", *, index: int = 0) -> int:
        """Return the line of a key, else of its section, else 0.

        Args:
            section: Name of the section.
            key: Name of the key, or "" for the section itself.
            index: Number of the section among sections of the same name, from 0.
        """
        line = self._places.get((section, index, key)) or self._places.get((section, index, ""))
        table, dot, name = section.rpartition(".")
        return line or (self.of(table, name, index=index) if dot else 0)
