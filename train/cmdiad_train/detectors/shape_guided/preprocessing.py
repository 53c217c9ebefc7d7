"""Preprocessing of Shape-Guided detectors: overlapping patches of the cloud as recorded."""

from __future__ import annotations

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Sensors, ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_train.recipe import Recipe, shape_guided_part


def make_preprocessing(recipe: Recipe, colour: Colour, modality: Sensors) -> Preprocessing:
    """Return the preprocessing of a modality in the view of the sensor.

    Args:
        recipe: Recipe of the detector.
        colour: Kind of the images.
        modality: Modality of the inputs.
    """
    part = shape_guided_part(recipe)
    return Preprocessing(
        modality=modality,
        size=recipe.size,
        colour=colour,
        rgb_mask=recipe.rgb_mask,
        foreground=recipe.foreground,
        groups=part.patches,
        group_size=part.patch_points,
        grid=0,
        xyz_feed="patches",
        seed=recipe.seed,
        image_modality=recipe.image_modality,
        coverage=part.coverage,
    )


def preferred_view(recipe: Recipe) -> tuple[ViewName, str]:
    """Return the view of the sensor, and why there is no other."""
    return "sensor", "patches are cut from the cloud as recorded"
