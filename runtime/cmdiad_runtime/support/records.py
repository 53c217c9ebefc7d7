"""Read JSON records into frozen dataclasses, with every value checked.

A record is a frozen dataclass whose `__post_init__` checks kind, range and cross-field rules with `require` and
`require_number`, and whose `from_json` reads exactly its own fields with `fields_from_json`. Readers of files turn a
`RecordError` into their own error: `NewerRecordError` means "made by a newer cmdiad; update", the base "damaged".
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any

LARGEST_NUMBER = sys.float_info.max
"""Upper limit of `require_number` for a value that only has to be finite."""
_CONTROLS = ("Cc", "Zl", "Zp")
"""Unicode categories of control characters, line separators and paragraph separators."""


class RecordError(ValueError):
    """A record has a missing, wrong or impossible value.

    Args:
        message: The problem as one line.
        field: Name of the field that breaks a rule, or "" if no single field does.
        expected: Rule as text, or "".

    Attributes:
        field: See Args.
        expected: See Args.
    """

    def __init__(self, message: str = "", *, field: str = "", expected: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.expected = expected


class NewerRecordError(RecordError):
    """A record has a field or version that this version of cmdiad does not know."""


def fields_from_json(kind: type, value: object, *, renamed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the constructor arguments of a record from a JSON object.

    Args:
        kind: Dataclass of the record.
        value: Parsed JSON.
        renamed: New names of fields by the old names that earlier versions wrote.

    Raises:
        NewerRecordError: The object has a field that the record does not have.
        RecordError: It is not an object, or a field without a default is missing.
    """
    name = kind.__name__
    if not isinstance(value, dict):
        raise RecordError(f"{name} is {value!r:.60}, not an object")
    known = {field.name: field for field in fields(kind) if field.init}
    values = {(renamed or {}).get(key, key): content for key, content in value.items()}
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise NewerRecordError(f"{name} has the unknown field {', '.join(unknown)[:200]}")
    required = (k for k, f in known.items() if f.default is MISSING and f.default_factory is MISSING)
    missing = sorted(key for key in required if key not in values)
    if missing:
        raise RecordError(f"{name} has no field {', '.join(missing)}")
    return values


def require(condition: bool, record: object, field: str, expected: str) -> None:
    """Raise RecordError unless a rule holds for a field of a record.

    Args:
        condition: True if the rule holds.
        record: Record that is being constructed.
        field: Name of the field.
        expected: Rule as text, for example "one of rgb, xyz, both".
    """
    if not condition:
        value = getattr(record, field)
        problem = f"{type(record).__name__}.{field} is {value!r:.60}, expected {expected}"
        raise RecordError(problem, field=field, expected=expected)


def require_known(record: object, field: str, names: Sequence[str]) -> None:
    """Raise unless a field is one of the names that this version knows; later versions may add names.

    Raises:
        NewerRecordError: The field is another name.
        RecordError: The field is no name.
    """
    value = getattr(record, field)
    require(isinstance(value, str), record, field, f"one of {', '.join(names)}")
    if value not in names:
        known = f"this version knows only {', '.join(names)}"
        raise NewerRecordError(f"{type(record).__name__}.{field} is {value!r:.60}; {known}")


def require_integer(record: object, field: str, low: int, high: int) -> None:
    """Raise RecordError unless a field is an int (not a bool) in [low, high]."""
    value = getattr(record, field)
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and low <= value <= high, record, field, f"a whole number from {low} to {high}")


def require_number(record: object, field: str, low: float, high: float) -> None:
    """Raise RecordError unless a field is a finite number (not a bool) in [low, high]."""
    require(is_number(getattr(record, field), low, high), record, field, f"a number from {low:g} to {high:g}")


def require_text(record: object, field: str, *, longest: int = 1000) -> None:
    """Raise RecordError unless a field is text of at most `longest` characters."""
    value = getattr(record, field)
    require(isinstance(value, str) and len(value) <= longest, record, field, f"text of at most {longest} characters")


def require_instance(record: object, field: str, kind: type) -> None:
    """Raise RecordError unless a field is an instance of a class, for example of another record."""
    require(isinstance(getattr(record, field), kind), record, field, f"a {kind.__name__}")


def require_time(record: object, field: str) -> None:
    """Raise RecordError unless a field is a date and time as `datetime.isoformat` writes it (ISO 8601)."""
    value = getattr(record, field)
    try:
        known = isinstance(value, str) and len(value) > len("2026-01-01") and bool(datetime.fromisoformat(value))
    except ValueError:
        known = False
    require(known, record, field, "a date and time in ISO 8601")


def require_line(record: object, field: str, *, longest: int = 1000) -> None:
    """Raise RecordError unless a field is text in one line: without control characters and line separators."""
    require_text(record, field, longest=longest)
    controls = any(unicodedata.category(character) in _CONTROLS for character in getattr(record, field))
    require(not controls, record, field, "text without control characters")


def require_name(record: object, field: str) -> None:
    """Raise RecordError unless a field is text in one line with a visible character."""
    require_line(record, field)
    require(bool(getattr(record, field).strip()), record, field, "a name")


def require_object(record: object, field: str) -> None:
    """Raise RecordError unless a field is a JSON object, a dict with text as keys. The content is not checked."""
    value = getattr(record, field)
    require(isinstance(value, dict) and all(isinstance(key, str) for key in value), record, field, "an object")


def make_tuple(record: object, field: str) -> None:
    """Turn a field of a frozen record from a list, as JSON has it, into a tuple; RecordError unless it is either."""
    value = getattr(record, field)
    require(isinstance(value, list | tuple), record, field, "a list")
    object.__setattr__(record, field, tuple(value))


def require_numbers(record: object, field: str, low: float, high: float) -> None:
    """Raise RecordError unless a field is a tuple of finite numbers (no bools) in [low, high]."""
    values = getattr(record, field)
    require(all(is_number(value, low, high) for value in values), record, field, f"numbers from {low:g} to {high:g}")


def is_number(value: object, low: float, high: float) -> bool:
    """Return True if a value is a finite int or float, not a bool, in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # The comparisons are exact for whole numbers too large for a float, where math.isfinite would raise.
    return low <= value <= high and -LARGEST_NUMBER <= value <= LARGEST_NUMBER
