"""The recipe of crossmodal feature mapping from the options of `cmdiad-train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cmdiad_train.detectors.extractor_options import (
    image_extractor_of,
    preset_of_options,
    preset_remark,
    within_preset,
)
from cmdiad_train.recipe import SMALL_NORMALS, SMALL_RGB, CfmRecipe, Recipe, common_options

_VALUES = ("epochs", "batch", "learning_rate", "patience")


def recipe_from(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options; missing values are the defaults of the family.

    Args:
        options: Values of the options of `cmdiad-train` by parameter name; None for an option that is not given.
        categories: Returns the names of all categories of the data set; not used.

    Raises:
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options contradict each other.
    """
    preset = preset_of_options(options)
    rgb = image_extractor_of(within_preset(options, preset), "rgb", SMALL_RGB if preset is None else preset.extractor)
    normals = replace(rgb, weights=SMALL_NORMALS.backbone.weights) if rgb.weights == SMALL_RGB.weights else rgb
    values = {name: options[name] for name in _VALUES if options[name] is not None}
    size = Recipe.size if preset is None else preset.preset.size
    return Recipe(CfmRecipe(rgb=rgb, normals=normals, **values), **{"size": size, **common_options(options)})


def remarks(options: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return a line that says why the extractor was chosen, if the options name none."""
    return preset_remark(options)
