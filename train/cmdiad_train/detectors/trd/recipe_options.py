"""The recipe of reverse distillation from the options of `cmdiad-train`."""

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
from cmdiad_train.detectors.shared_options import GEOMETRY, NO_CLOUD, idle_because
from cmdiad_train.recipe import (
    PUBLISHED_TRD,
    SMALL_NORMALS,
    TEACHER_STAGES,
    Recipe,
    RgbExtractor,
    TrdRecipe,
    Variant,
    common_options,
    trd_part,
)

SIZE = 256
"""Side of the view in pixels, as published."""
_VALUES = ("geometry", "distance", "epochs", "batch", "learning_rate", "patience", "folds")


def recipe_from(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options; missing values are those of the mode.

    Args:
        options: Values of the options of `cmdiad-train` by parameter name; None for an option that is not given.
        categories: Returns the names of all categories of the data set; not used.

    Raises:
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options contradict each other.
    """
    base = PUBLISHED_TRD if options["mode"] == "faithful" else TrdRecipe()
    values = {name: options[name] for name in _VALUES if options[name] is not None}
    modality = options.get("modality") or Recipe.modality
    variant: Variant = options["variant"] or ("trd" if modality == "both" and base.mode == "faithful" else "rd")
    part = replace(base, **values, variant=variant)
    part = replace(part, teacher=_teacher(options, part, modality))
    if options["epochs"] is not None:
        part = replace(part, distil_epochs=options["epochs"])
    published = {"view": "sensor", "verdict": "image"} if part.mode == "faithful" else {}
    return Recipe(part, **{"size": SIZE, **published, **common_options(options)})


def remarks(options: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return a line about the teacher: why it was chosen if the options name none, or that its weights are random."""
    if trd_part(recipe).teacher.weights == "seeded":
        return ["The teacher has random weights and detects little. Pass --rgb-weights timm, or --rgb-weights FILE."]
    return preset_remark(options)


def idle_options(recipe: Recipe) -> dict[str, str]:
    """Return the options of clouds for a training without clouds; see `Family.idle`."""
    return {} if trd_part(recipe).trains_with_clouds(recipe) else idle_because(NO_CLOUD, GEOMETRY)


def _teacher(options: Mapping[str, Any], part: TrdRecipe, modality: str) -> RgbExtractor:
    """Return the teacher of the options of image extractors, which the teacher shares with other families."""
    options = with_published_network(options, part.teacher, faithful=part.mode == "faithful")
    preset, base = preset_of_options(options), part.teacher
    if preset is not None:
        base = preset.extractor
        if preset.preset.is_shipped and modality == "xyz" and part.variant == "rd":
            base = SMALL_NORMALS.backbone
    teacher = image_extractor_of(within_preset(options, preset), "rgb", base)
    return replace(teacher, stages=TEACHER_STAGES, grid=None)
