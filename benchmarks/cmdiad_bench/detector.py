"""Describe the detector of a bundle from its recipe, without knowledge of any detector family.

The recipe in a bundle is opaque: a family may write any field, and a bundle without a recipe is valid.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def family_name(recipe: Mapping[str, Any]) -> str | None:
    """Return the name of the detector family, or None if the recipe names none."""
    name = recipe.get("family")
    return name if isinstance(name, str) else None


def family_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the detector family; empty if the recipe has none.

    Recipes of cmdiad 0.1 were flat: without a family's part, all fields of the recipe count as settings.
    """
    part = recipe.get("detector", recipe)
    return part if isinstance(part, dict) else {}


def settings_as_text(recipe: Mapping[str, Any]) -> str:
    """Return the family's settings as `name: value` pairs; nested names are joined by dots, absent values left out."""
    return "; ".join(f"{name}: {_as_text(value)}" for name, value in _flat(family_settings(recipe)))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            yield f"{prefix}{name}", value


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
