"""Read JSON records into frozen dataclasses, with every value checked.

A record is a frozen dataclass whose `__post_init__` checks kind, range and cross-field rules with `require` and
`require_number`, and whose `from_json` reads exactly its own fields with `fields_from_json`. Readers of files turn a
`RecordError` into their own error: `NewerRecordError` means "made by a newer cmdiad; update", the base "damaged".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any


class RecordError(ValueError):
    """A record has a missing, wrong or impossible value."""


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
        raise RecordError(f"{type(record).__name__}.{field} is {value!r:.60}, expected {expected}")


def require_integer(record: object, field: str, low: int, high: int) -> None:
    """Raise RecordError unless a field is an int (not a bool) in [low, high]."""
    value = getattr(record, field)
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and low <= value <= high, record, field, f"a whole number from {low} to {high}")


def require_number(record: object, field: str, low: float, high: float) -> None:
    """Raise RecordError unless a field is a finite number (not a bool) in [low, high]."""
    value = getattr(record, field)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    require(
        number and math.isfinite(value) and low <= value <= high, record, field, f"a number from {low:g} to {high:g}"
    )
