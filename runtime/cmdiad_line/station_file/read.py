"""The reader of a station file, which reports every mistake in the file at once."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from cmdiad_line.station_file.check import check_station
from cmdiad_line.station_file.general import General
from cmdiad_line.station_file.lines import Lines
from cmdiad_line.station_file.mistakes import Mistake, StationFileError
from cmdiad_line.station_file.recipe import Recipe
from cmdiad_line.station_file.source import SOURCE_KINDS, Source
from cmdiad_line.station_file.station import INSIDE, OUTSIDE, Station
from cmdiad_line.station_file.values import ValueMistakeError, convert
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.records import RecordError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_FILE = 1 << 20
"""Largest station file in bytes."""

Section = TypeVar("Section")


def read_station(path: str | os.PathLike[str], *, folder: Path | None = None, running: bool = False) -> Station:
    """Read and check a station file.

    Args:
        path: TOML file.
        folder: Folder that relative paths in the file refer to; None for the folder of the file.
        running: True for a process of a running station. Then only the content of the file is checked, because a
            process must be able to restart although somebody has moved the bundle in the meantime.

    Returns:
        The station, with absolute paths.

    Raises:
        StationFileError: The file is missing, is no TOML, or has mistakes; all of them are listed.
    """
    file = Path(path).absolute()
    text = _text(file)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        action = "correct the line; text stands in quotes, and every key once"
        raise _refused(file, f"a line that is no TOML ({error})", action, int(line[1]) if line else 0) from error
    except (ValueError, RecursionError) as error:  # A number of thousands of digits, or thousands of brackets.
        raise _refused(file, f"content that cannot be read ({error})", "correct the file") from error
    reader = _Reader(file, content, Lines(text), file.parent if folder is None else folder.absolute(), not running)
    station = reader.station()
    mistakes = reader.mistakes
    if station is not None and not running:
        # A wrong value was replaced by its default, which the user did not write.
        mistakes += [m for m in check_station(station, reader.lines) if m.subject.split(".")[0] not in reader.replaced]
    if mistakes or station is None:
        raise StationFileError(file, mistakes)
    return station


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise _refused(file, f"more than {LARGEST_FILE} bytes", "check the path")
        return content.decode("utf-8")
    except OSError as error:
        raise _refused(file, f"no readable file ({cause_of(error)})", "check the path") from error
    except UnicodeDecodeError as error:
        raise _refused(
            file, f"bytes that are no UTF-8 text (at byte {error.start})", "save the file as UTF-8"
        ) from error


def _refused(file: Path, problem: str, action: str, line: int = 0) -> StationFileError:
    mistake = Mistake(line=line, subject=file.name, problem=problem, expected="a station file in TOML", action=action)
    return StationFileError(file, [mistake])


class _Reader:
    """Reader of the sections of one file.

    Attributes:
        lines: Line numbers.
        mistakes: Mistakes so far.
        replaced: Names of the sections in which a wrong value was replaced by its default.
    """

    def __init__(self, file: Path, content: dict[str, Any], lines: Lines, folder: Path, exists: bool) -> None:
        self._file = file
        self._content = content
        self._folder = folder
        self._exists = exists
        self.lines = lines
        self.mistakes: list[Mistake] = []
        self.replaced: set[str] = set()

    def station(self) -> Station | None:
        """Return the station, or None if a section without a default cannot be read."""
        known = ["station", "recipe", "source", *OUTSIDE, *INSIDE]
        for name in self._content:
            if name not in known:
                self._add(name, "", "an unknown section", "one of " + ", ".join(known), _nearest(name, known))
        general = self._required("station", General)
        recipe = self._required("recipe", Recipe)
        sources = self._sources()
        kinds = {**OUTSIDE, **INSIDE}
        others: dict[str, Any] = {
            name: self._section(name, kind) for name, kind in kinds.items() if name in self._content
        }
        if general is None or recipe is None or not sources or None in others.values():
            return None
        return Station(**vars(general), file=self._file, recipe=recipe, sources=tuple(sources), **others)

    def _required(self, name: str, kind: type[Section]) -> Section | None:
        if name in self._content:
            return self._section(name, kind)
        self._add(name, "", "no such section", f"a section [{name}]", f"add [{name}], see docs/station.md")
        return None

    def _sources(self) -> list[Source]:
        tables = self._content.get("source")
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or not tables:
            problem = "no such section" if tables is None else "a section in single brackets"
            self._add("source", "", problem, "at least one section [[source]]", "add [[source]] with a kind")
            return []
        sources = []
        for index, table in enumerate(tables):
            name = table.get("kind")
            kind = SOURCE_KINDS.get(name) if isinstance(name, str) else None
            if kind is None:
                problem = "no kind" if name is None else f"{name!r:.60}"
                action = _nearest(str(name), list(SOURCE_KINDS)) if name else "add the key kind"
                self._add("source", "kind", problem, f"one of {', '.join(SOURCE_KINDS)}", action, index=index)
                continue
            source = self._fill("source", kind, table, index)
            sources += [] if source is None else [source]
        return sources

    def _section(self, name: str, kind: type[Section]) -> Section | None:
        table = self._content[name]
        if not isinstance(table, dict):
            problem = "a section in double brackets" if isinstance(table, list) else f"{table!r:.60}"
            self._add(name, "", problem, f"a section [{name}]", f"write [{name}]")
            return None
        return self._fill(name, kind, table, 0)

    def _fill(self, section: str, kind: type[Section], table: dict[str, Any], index: int) -> Section | None:
        """Return a section from a table, or None if there is no value to continue with."""
        known = {entry.name: entry for entry in fields(kind) if entry.init}  # type: ignore[arg-type]
        hints = get_type_hints(kind, include_extras=True)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in known:
                expected = f"one of {', '.join(known)}" if known else "no key"
                self._add(section, key, "an unknown key", expected, _nearest(key, list(known)), index=index)
                continue
            try:
                values[key] = convert(hints[key], value, self._folder, exists=self._exists)
            except ValueMistakeError as error:
                self._add(section, key, error.found, error.expected, f"correct {key}", index=index)
                self.replaced.add(section)
        required = [name for name, entry in known.items() if not _has_default(entry)]
        for key in required:
            if key not in table:
                self._add(section, key, "no such key", f"a value for {key}", f"add {key} = …", index=index)
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
                self._add(section, key, problem, expected, f"correct {key or 'the section'}", index=index)
                self.replaced.add(section)
                defaults = {entry.name for entry in fields(kind) if _has_default(entry)}  # type: ignore[arg-type]
                if key not in values or key not in defaults:
                    return None
                del values[key]

    def _add(self, section: str, key: str, problem: str, expected: str, action: str, *, index: int = 0) -> None:
        subject = f"{section}.{key}" if key else section
        line = self.lines.of(section, key, index=index)
        self.mistakes.append(Mistake(line=line, subject=subject, problem=problem, expected=expected, action=action))


def _has_default(entry: Field[Any]) -> bool:
    return entry.default is not MISSING or entry.default_factory is not MISSING


def _nearest(name: str, known: list[str]) -> str:
    """Return the advice for an unknown name."""
    close = get_close_matches(name, known, 1)
    return f"write {close[0]} instead" if close else "remove it, or correct the name"
