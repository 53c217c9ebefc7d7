"""The recipe of Shape-Guided detectors from the options of `cmdiad-train`."""

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
from cmdiad_train.detectors.shared_options import IMAGES, NO_IMAGE, idle_because
from cmdiad_train.recipe import (
    IMAGE_STAGES,
    PUBLISHED_SHAPE_GUIDED,
    PUBLISHED_SHAPE_GUIDED_RGB,
    SMALL_SHAPE_GUIDED_RGB,
    Recipe,
    RgbExtractor,
    ShapeGuidedRecipe,
    common_options,
    shape_guided_part,
)

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
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options of the image network contradict each other.
    """
    faithful = options["mode"] == "faithful"
    values = {name: options[name] for name in _VALUES if options[name] is not None}
    part = replace(PUBLISHED_SHAPE_GUIDED if faithful else ShapeGuidedRecipe(), **values)
    if options["modality"] == "both":
        part = replace(part, rgb=_image_network(options, faithful=faithful))
    common: dict[str, Any] = {"size": DEFAULT_SIZE}
    if faithful:
        common = {"size": PUBLISHED_SIZE, "view": "sensor", "verdict": "image"}
    return Recipe(part, **{**common, **common_options(options)})


def remarks(options: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return lines about the image: why its network was chosen, and what a faithful recipe lacks."""
    part = shape_guided_part(recipe)
    if part.rgb is None:
        return []
    lines = []
    if part.rgb.weights == "seeded":
        lines = ["The image network has random weights and detects little. Pass --rgb-weights timm or FILE."]
    elif part.mode == "default":
        lines = preset_remark(options)
    if part.mode == "faithful" and recipe.rgb_mask == "none":
        lines.append("The published protocol blacks out images outside the part: add --rgb-mask cloud.")
    return lines


def idle_options(recipe: Recipe) -> dict[str, str]:
    """Return the options of the image network for a detector of clouds alone; see `Family.idle`."""
    return idle_because(NO_IMAGE, IMAGES) if recipe.modality == "xyz" else {}


def _image_network(options: Mapping[str, Any], *, faithful: bool) -> RgbExtractor:
    """Return the image network of the options. Its stages are fixed, and the mode sets the grid."""
    base = PUBLISHED_SHAPE_GUIDED_RGB if faithful else SMALL_SHAPE_GUIDED_RGB
    options = with_published_network(options, base, faithful=faithful)
    preset = preset_of_options(options)
    chosen = image_extractor_of(within_preset(options, preset), "rgb", base if preset is None else preset.extractor)
    return replace(chosen, stages=IMAGE_STAGES, grid=base.grid)
