"""The recipe of 3DSR from the options of `cmdiad-train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cmdiad_train.detectors.shared_options import GEOMETRY, NO_CLOUD, idle_because
from cmdiad_train.recipe import PUBLISHED_DSR3D, Dsr3dRecipe, Recipe, common_options, dsr3d_part

PUBLISHED_SIZE = 384
"""Side of the published view in pixels."""
SIZE = 256
_VALUES = ("geometry", "codes", "autoencoder_steps", "epochs", "batch", "learning_rate", "patience")


def recipe_from(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options; missing values are those of the mode.

    Args:
        options: Values of the options of `cmdiad-train` by parameter name; None for an option that is not given.
        categories: Returns the names of all categories of the data set; not used.

    Raises:
        RunError: An option contradicts the recipe.
    """
    base = PUBLISHED_DSR3D if options["mode"] == "faithful" else Dsr3dRecipe()
    values = {name: options[name] for name in _VALUES if options[name] is not None}
    if options["code_width"] is not None:
        values["width"] = options["code_width"]
    part = replace(base, **values)
    common: dict[str, Any] = {"size": SIZE}
    if part.mode == "faithful":
        common = {"size": PUBLISHED_SIZE, "view": "sensor", "verdict": "image"}
    return Recipe(part, **{**common, **common_options(options)})


def remarks(options: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return lines about what the published detector had and this one has not, and about a modality of our own."""
    lines = []
    if recipe.modality == "rgb":
        lines.append("3DSR for images alone is a recipe of cmdiad that is not published.")
    if dsr3d_part(recipe).mode == "faithful" and recipe.modality != "xyz":
        lines.append(
            "The autoencoder is trained on procedurally generated images instead of ImageNet, which is not included."
        )
    return lines


def idle_options(recipe: Recipe) -> dict[str, str]:
    """Return the options of clouds for a detector of images; see `Family.idle`."""
    return idle_because(NO_CLOUD, GEOMETRY) if recipe.modality == "rgb" else {}
