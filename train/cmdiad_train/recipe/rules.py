"""Checks of recipe fields. A wrong value is a mistake on the command line, so the error names the option to change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.records import fields_from_json, is_number


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise RunError unless a rule holds for the field `name` of a recipe."""
    if not condition:
        raise RunError(f"recipe {name}", found=f"{value!r:.60}", expected=expected, action=f"Change the option {name}")


def require_one(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise RunError unless a value is one of some names."""
    require(isinstance(value, str) and value in allowed, name, value, f"one of {', '.join(allowed)}")


def require_text(name: str, value: object, expected: str) -> None:
    """Raise RunError unless a value is text with a visible character."""
    require(isinstance(value, str) and bool(value.strip()), name, value, expected)


def require_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise RunError unless a value is an int (not a bool) in [low, high]."""
    require(_is_whole(value, low, high), name, value, f"a whole number from {low} to {high}")


def require_wholes(name: str, values: object, low: int, high: int) -> None:
    """Raise RunError unless a value is a tuple of ints (no bools) in [low, high]."""
    whole = isinstance(values, tuple) and all(_is_whole(value, low, high) for value in values)
    require(whole, name, values, f"whole numbers from {low} to {high}")


def require_inside(name: str, value: object, expected: str, *, high: float = 1.0) -> None:
    """Raise RunError unless a value is a finite number strictly between 0 and `high`."""
    require(is_number(value, 0, high) and value not in (0, high), name, value, expected)


def require_kind(name: str, value: object, kinds: Iterable[type]) -> None:
    """Raise RunError unless a value is an instance of one of some classes, for example of a part of the recipe."""
    kinds = tuple(kinds)
    require(isinstance(value, kinds), name, value, " or ".join(kind.__name__ for kind in kinds))


def tuples(kind: type, value: object) -> dict[str, Any]:
    """Return the constructor arguments of a dataclass from JSON, with lists as tuples; raises RecordError."""
    fields = fields_from_json(kind, value)
    return {name: tuple(content) if isinstance(content, list) else content for name, content in fields.items()}


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
