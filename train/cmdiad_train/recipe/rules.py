"""Checks of recipe fields. A wrong value is a mistake on the command line, so the error names the option to change."""

from __future__ import annotations

import math
from typing import Any

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.records import fields_from_json


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise RunError unless a rule holds for the field `name` of a recipe."""
    if not condition:
        raise RunError(f"recipe {name}", found=f"{value}", expected=expected, action="Change the option")


def require_whole(name: str, value: object, low: int) -> None:
    """Raise RunError unless a value is an int (not a bool) of at least `low`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and value >= low, name, value, f"a whole number of at least {low}")  # type: ignore[operator]


def require_inside(name: str, value: object, expected: str, *, low: float = 0.0, high: float = 1.0) -> None:
    """Raise RunError unless a value is a finite number strictly between `low` and `high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    require(number and low < value < high, name, value, expected)  # type: ignore[operator]


def tuples(kind: type, value: object) -> dict[str, Any]:
    """Return the constructor arguments of a dataclass from JSON, with lists as tuples; raises RecordError."""
    fields = fields_from_json(kind, value)
    return {name: tuple(content) if isinstance(content, list) else content for name, content in fields.items()}
