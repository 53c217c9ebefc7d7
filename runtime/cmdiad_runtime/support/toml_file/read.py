"""Read a TOML file, and report every mistake in it at once."""

from __future__ import annotations

import re
import sys
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.records import RecordError
from cmdiad_runtime.support.toml_file.lines import Lines
from cmdiad_runtime.support.toml_file.mistakes import Mistake
from cmdiad_runtime.support.toml_file.values import ValueMistakeError, convert

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_FILE = 1 << 20
"""Largest file in bytes."""

Section = TypeVar("Section")


class TomlReader:
    """Reader of the sections of one TOML file. A file that cannot be read at all has no content and one mistake.

    Args:
        file: TOML file.
        kind: Description of the file for messages, for example "a station file".
        page: Page of the documentation that describes the sections, for example "docs/station.md".
        folder: Folder that relative paths in the file refer to; None for the folder of the file.
        exists: False to accept the path of a file or folder that does not exist.

    Attributes:
        content: Tables and values of the file by name.
        lines: Line numbers of sections and keys.
        mistakes: Mistakes so far.
        replaced: Names of the sections in which a wrong value was replaced by its default.
        readable: False if the file is missing or is no TOML.
    """

    def __init__(self, file: Path, *, kind: str, page: str, folder: Path | None = None, exists: bool = True) -> None:
        self._file, self._kind, self._page = file, kind, page
        self._folder = file.parent if folder is None else folder.absolute()
        self._exists = exists
        self.mistakes: list[Mistake] = []
        self.replaced: set[str] = set()
        text = self._text()
        self.lines = Lines(text or "")
        self.content: dict[str, Any] = {} if text is None else self._parsed(text)
        self.readable = not self.mistakes

    def _text(self) -> str | None:
        try:
            with self._file.open("rb") as opened:
                content = opened.read(LARGEST_FILE + 1)
            if len(content) <= LARGEST_FILE:
                return content.decode("utf-8")
            self._refuse(f"more than {LARGEST_FILE} bytes", "check the path")
        except OSError as error:
            self._refuse(f"no readable file ({cause_of(error)})", "check the path")
        except UnicodeDecodeError as error:
            self._refuse(f"bytes that are no UTF-8 text (at byte {error.start})", "save the file as UTF-8")
        return None

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"line (\d+)", str(error))
            action = "correct the line; text stands in quotes, and every key once"
            self._refuse(f"a line that is no TOML ({error})", action, int(line[1]) if line else 0)
        except (ValueError, RecursionError) as error:  # A number of thousands of digits, or thousands of brackets.
            self._refuse(f"content that cannot be read ({error})", "correct the file")
        return {}

    def _refuse(self, problem: str, action: str, line: int = 0) -> None:
        expected = f"{self._kind} in TOML"
        self.mistakes.append(
            Mistake(line=line, subject=self._file.name, problem=problem, expected=expected, action=action)
        )

    def check_names(self, known: list[str]) -> None:
        """Add a mistake for each section whose name is not known."""
        for name in self.content:
            if name not in known:
                self.add(name, "", "an unknown section", "one of " + ", ".join(known), nearest(name, known))

    def required(self, name: str, kind: type[Section]) -> Section | None:
        """Return a section that must be in the file, or None after a mistake."""
        if name in self.content:
            return self.section(name, kind)
        self.add(name, "", "no such section", f"a section [{name}]", f"add [{name}], see {self._page}")
        return None

    def section(self, name: str, kind: type[Section]) -> Section | None:
        """Return a section of the file, or None after a mistake.

        Args:
            name: Name of a section that is in the file.
            kind: Dataclass of the section.
        """
        table = self.content[name]
        if not isinstance(table, dict):
            problem = "a section in double brackets" if isinstance(table, list) else f"{table!r:.60}"
            self.add(name, "", problem, f"a section [{name}]", f"write [{name}]")
            return None
        return self.fill(name, kind, table, 0)

    def tables(self, name: str, example: str) -> list[dict[str, Any]]:
        """Return the tables of a section in double brackets that must be in the file, or none after a mistake.

        Args:
            name: Name of the section.
            example: Key that each table has, for the message.
        """
        tables = self.content.get(name)
        if isinstance(tables, list) and tables and all(isinstance(table, dict) for table in tables):
            return tables
        problem = "no such section" if tables is None else "a section in single brackets"
        self.add(name, "", problem, f"at least one section [[{name}]]", f"add [[{name}]] with a {example}")
        return []

    def fill(self, section: str, kind: type[Section], table: dict[str, Any], index: int) -> Section | None:
        """Return a section from a table, or None if there is no value to continue with.

        Args:
            section: Name of the section.
            kind: Dataclass of the section.
            table: Keys and values.
            index: Number of the section among sections of the same name, from 0.
        """
        known = {entry.name: entry for entry in fields(kind) if entry.init}  # type: ignore[arg-type]
        hints = get_type_hints(kind, include_extras=True)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in known:
                expected = f"one of {', '.join(known)}" if known else "no key"
                self.add(section, key, "an unknown key", expected, nearest(key, list(known)), index=index)
                continue
            try:
                values[key] = convert(hints[key], value, self._folder, exists=self._exists)
            except ValueMistakeError as error:
                self.add(section, key, error.found, error.expected, f"correct {key}", index=index)
                self.replaced.add(section)
        required = [name for name, entry in known.items() if not _has_default(entry)]
        for key in required:
            if key not in table:
                self.add(section, key, "no such key", f"a value for {key}", f"add {key} = …", index=index)
        return self._construct(section, kind, values, index) if set(required) <= set(values) else None

    def _construct(self, section: str, kind: type[Section], values: dict[str, Any], index: int) -> Section | None:
        """Return a section. A value that breaks a rule is reported and replaced by its default, to find the next."""
        while True:
            try:
                return kind(**values)
            except RecordError as error:
                key = error.field
                problem = f"{values[key]!r:.60}" if key in values else str(error)
                expected = error.expected or "values that fit together"
                self.add(section, key, problem, expected, f"correct {key or 'the section'}", index=index)
                self.replaced.add(section)
                defaults = {entry.name for entry in fields(kind) if _has_default(entry)}  # type: ignore[arg-type]
                if key not in values or key not in defaults:
                    return None
                del values[key]

    def add(self, section: str, key: str, problem: str, expected: str, action: str, *, index: int = 0) -> None:
        """Add a mistake at a key, or at a section if the key is ""; see `Mistake`."""
        subject = f"{section}.{key}" if key else section
        line = self.lines.of(section, key, index=index)
        self.mistakes.append(Mistake(line=line, subject=subject, problem=problem, expected=expected, action=action))


def _has_default(entry: Field[Any]) -> bool:
    return entry.default is not MISSING or entry.default_factory is not MISSING


def nearest(name: str, known: list[str]) -> str:
    """Return the advice for an unknown name, as the action of a mistake."""
    close = get_close_matches(name, known, 1)
    return f"write {close[0]} instead" if close else "remove it, or correct the name"
