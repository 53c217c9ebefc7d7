"""Recipes that replaced one another. The judged defects of all of them form the check set."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.stored import Selection, StoredResult
from cmdiad_line.review.places import RECORD, candidate_folder, candidates_folder
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.regular_file import read_regular

_LIMIT = 1 << 20  # bytes
MOST_DEFECTS = 10_000


def lineage(state: Path, recipe_id: str) -> tuple[str, ...]:
    """Return a recipe, the recipe that it replaced as a candidate, and so on.

    Raises:
        OutputError: The record of a candidate is damaged, so that earlier recipes are not known.
    """
    ids = [recipe_id]
    while (base := _replaced_by(state, ids[-1])) is not None and base not in ids:
        ids.append(base)
    return tuple(ids)


def recipes_to_replace(state: Path, stored: Collection[str]) -> frozenset[str]:
    """Return the ids of the recipes that candidates are to replace. Replay and acceptance need these recipes.

    Args:
        state: State folder of the station.
        stored: Ids of the recipes of the station. A candidate among them was accepted before.

    Raises:
        OutputError: The record of a candidate is damaged, so that the recipe is not known.
    """
    names = (path.parent.name for path in candidates_folder(state).glob(f"*/{RECORD}"))
    bases = (_replaced_by(state, name) for name in names if name not in stored)
    return frozenset(base for base in bases if base is not None)


def judged_defects(state: Path, records: RecordReader, recipe: Recipe) -> tuple[StoredResult, ...]:
    """Return the parts of a recipe and of those that it replaced that were judged defective, oldest first.

    Raises:
        OutputError: See `lineage`.
    """
    parts = [
        part
        for recipe_id in lineage(state, recipe.recipe_id)
        for part in records.select(Selection(recipe_id=recipe_id, judgement="defect"), limit=MOST_DEFECTS)
    ]
    return tuple(sorted(parts, key=lambda part: part.acquisition_id))


def _replaced_by(state: Path, recipe_id: str) -> str | None:
    """Return the recipe that a recipe replaced, or None if it was no candidate."""
    path = candidate_folder(state, recipe_id) / RECORD
    try:
        base = json.loads(read_regular(path, _LIMIT))["base_recipe"]
        if not isinstance(base, str):
            raise ValueError(f"base_recipe is {base!r:.60}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OutputError(
            path,
            found=f"a damaged record ({error})",
            expected="the record of a candidate, which names the recipe that it replaced",
            action="restore the file from a copy: the judged defects of that recipe belong to the check set",
        ) from error
    return base
