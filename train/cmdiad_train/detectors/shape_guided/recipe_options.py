"""The recipe of Shape-Guided detectors from the options of `cmdiad-train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cmdiad_train.recipe import PUBLISHED_SHAPE_GUIDED, Recipe, ShapeGuidedRecipe, common_options

PUBLISHED_SIZE = 224
"""Side of the published view in pixels."""
DEFAULT_SIZE = 112
"""Side of the view without --size: a quarter of the published points."""
_VALUES = (
    "patches",
    "patch_points",
    "coverage",
    "decoder_width",
    "epochs",
    "batch",
    "learning_rate",
    "patience",
)


def recipe_from(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options; missing values are those of the mode.

    Args:
        options: Values of the options of `cmdiad-train` by parameter name; None for an option that is not given.
        categories: Returns the names of all categories of the data set; not used.

    Raises:
        RunError: An option contradicts the recipe.
    """
    faithful = options["mode"] == "faithful"
    values = {name: options[name] for name in _VALUES if options[name] is not None}
    part = replace(PUBLISHED_SHAPE_GUIDED if faithful else ShapeGuidedRecipe(), **values)
    common: dict[str, Any] = {"size": DEFAULT_SIZE, "view": "sensor"}
    if faithful:
        common |= {"size": PUBLISHED_SIZE, "verdict": "image"}
    return Recipe(part, **{**common, **common_options(options)})
