"""The recipe of AST from the options of `cmdiad-train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cmdiad_train.detectors.extractor_options import (
    image_extractor_of,
    preset_of_options,
    preset_remark,
    with_published_network,
    within_preset,
)
from cmdiad_train.detectors.shared_options import GEOMETRY, IMAGES, NO_CLOUD, NO_IMAGE, idle_because
from cmdiad_train.recipe import PUBLISHED_AST, AstRecipe, Recipe, RgbExtractor, ast_part, common_options

PUBLISHED_SIZE = 768
"""Side of the published view in pixels."""
_VALUES = ("geometry", "student_width", "reduction", "epochs", "batch", "learning_rate", "patience")


def recipe_from(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options; missing values are those of the mode.

    Args:
        options: Values of the options of `cmdiad-train` by parameter name; None for an option that is not given.
        categories: Returns the names of all categories of the data set; not used.

    Raises:
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options contradict each other.
    """
    base = PUBLISHED_AST if options["mode"] == "faithful" else AstRecipe()
    values = {name: options[name] for name in _VALUES if options[name] is not None}
    if options["cell"] is not None:
        values["cell"] = int(options["cell"])
    part = replace(base, **values)
    part = replace(part, extractor=_extractor(options, part))
    published = {"size": PUBLISHED_SIZE, "view": "sensor", "verdict": "image"} if part.mode == "faithful" else {}
    return Recipe(part, **{**published, **common_options(options)})


def remarks(options: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return a line about the image network: why it was chosen if no option names one, or that it is random."""
    if recipe.modality == "xyz":
        return []
    if ast_part(recipe).extractor.weights == "seeded":
        return ["The image network has random weights and detects little. Pass --rgb-weights timm or FILE."]
    return preset_remark(options)


def idle_options(recipe: Recipe) -> dict[str, str]:
    """Return the options that concern the modality that is not measured; see `Family.idle`."""
    return {"xyz": idle_because(NO_IMAGE, IMAGES), "rgb": idle_because(NO_CLOUD, GEOMETRY)}.get(recipe.modality, {})


def _extractor(options: Mapping[str, Any], part: AstRecipe) -> RgbExtractor:
    """Return the network of the options of image extractors. The grid follows from the cells."""
    options = with_published_network(options, part.extractor, faithful=part.mode == "faithful")
    preset, base = preset_of_options(options), part.extractor
    if preset is not None:
        base = preset.extractor
    return replace(image_extractor_of(within_preset(options, preset), "rgb", base), grid=None)
