"""Write the reference of the station file into docs/station.md, from the docstrings of the sections.

    python scripts/station_reference.py

tests/line/station_file/test_reference.py fails if the page is out of date.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Collection
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cmdiad_line.station_file.general import General
from cmdiad_line.station_file.recipe import Recipe
from cmdiad_line.station_file.source import FAULTS, SOURCE_KINDS, Source
from cmdiad_line.station_file.station import INSIDE, OUTSIDE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "station.md"
BEGIN = "<!-- Written by scripts/station_reference.py. -->\n"
END = "<!-- End of the written part. -->\n"
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


def reference() -> str:
    """Return the reference as Markdown: one table per section."""
    parts = [_section("[station]", General), _section("[recipe]", Recipe), _section("[[source]], every kind", Source)]
    common = {entry.name for entry in fields(Source)}
    for kind, section in SOURCE_KINDS.items():
        parts.append(_section(f'[[source]], kind = "{kind}"', section, common - _changed(section)))
    parts += [
        "Faults of a simulated sensor:\n",
        _table(("fault", "effect"), [(f"`{n}`", t) for n, t in FAULTS.items()]),
    ]
    parts += [_section(f"[{name}]", section) for name, section in {**OUTSIDE, **INSIDE}.items()]
    return "\n".join(parts)


def with_reference(page: str) -> str:
    """Return the page with the present reference between the two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


def _section(title: str, section: type, leave_out: Collection[str] = ()) -> str:
    """Return heading, purpose and table of a section; the purpose is in the docstring of its class or module."""
    hints = get_type_hints(section, include_extras=True)
    texts = _described(section)
    rows = [
        (f"`{entry.name}`", _type(hints[entry.name]), _default(entry), texts[entry.name])
        for entry in fields(section)
        if entry.name not in leave_out
    ]
    kind = title.partition(",")[2]
    described = section if kind else sys.modules[section.__module__]
    purpose = (described.__doc__ or "").splitlines()[0].split(": ", 1)[-1]
    intro = "" if title.endswith("every kind") else f"{purpose[:1].upper()}{purpose[1:]}\n\n"
    table = _table(("key", "type", "default", "meaning"), rows) if rows else "No keys.\n"
    return f"### `{title.partition(',')[0]}`{',' if kind else ''}{kind}\n\n{intro}{table}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:], ""])


def _changed(section: type) -> set[str]:
    """Return the names of the common keys for which a kind of source has another default."""
    common = {entry.name: entry.default for entry in fields(Source)}
    own = {entry.name: entry.default for entry in fields(section)}  # type: ignore[arg-type]
    return {name for name, default in common.items() if own[name] != default}


def _described(section: type) -> dict[str, str]:
    """Return the description of each key, from the docstrings of the section and its bases."""
    texts: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        attributes = (kind.__doc__ or "").partition("Attributes:\n")[2].split("\n\n")[0]
        for match in re.finditer(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", attributes, re.MULTILINE):
            texts[match[1]] = " ".join(match[2].split()).replace("|", "\\|")
    return texts


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _type(next(kind for kind in arguments if kind is not type(None)))
    if origin is Literal:
        return ", ".join(f'"{value}"' for value in arguments)
    if origin is Annotated:
        return str(arguments[1]).removeprefix("an ")
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    return _NAMES[hint]


def _default(entry: Field[Any]) -> str:
    if entry.default is MISSING:
        return "required" if entry.default_factory is MISSING else "empty"
    if entry.default is None:
        return "none"
    if isinstance(entry.default, bool):
        return str(entry.default).lower()
    if isinstance(entry.default, tuple):
        return ", ".join(map(str, entry.default)) or "empty"
    return f'"{entry.default}"' if isinstance(entry.default, str) else f"{entry.default:g}"


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
