"""Recipes of the same parts: judged defects stay in the check set when a candidate has replaced its recipe."""

from __future__ import annotations

import json
from pathlib import Path

from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.stored import Selection, StoredResult
from cmdiad_line.review.places import RECORD, candidate_folder
from cmdiad_runtime.support.regular_file import read_regular

_LIMIT = 1 << 20  # bytes
MOST_DEFECTS = 10_000


def lineage(state: Path, recipe_id: str) -> tuple[str, ...]:
    """Return a recipe, the recipe that it replaced as a candidate, and so on."""
    ids = [recipe_id]
    while True:
        try:
            content = json.loads(read_regular(candidate_folder(state, ids[-1]) / RECORD, _LIMIT))
        except (OSError, ValueError):
            return tuple(ids)
        base = content.get("base_recipe") if isinstance(content, dict) else None
        if not isinstance(base, str) or base in ids:
            return tuple(ids)
        ids.append(base)


def judged_defects(state: Path, records: RecordReader, recipe: Recipe) -> tuple[StoredResult, ...]:
    """Return the parts of a recipe and of those that it replaced that were judged defective, oldest first."""
    parts = [
        part
        for recipe_id in lineage(state, recipe.recipe_id)
        for part in records.select(Selection(recipe_id=recipe_id, judgement="defect"), limit=MOST_DEFECTS)
    ]
    return tuple(sorted(parts, key=lambda part: part.acquisition_id))
