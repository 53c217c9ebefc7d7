"""Preprocessing of Shape-Guided detectors: overlapping patches of the cloud, and the preferred view."""

from __future__ import annotations

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Sensors, ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_train.detectors.preferred_view import preferred_view_of
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
    """Return the best view for a recipe if every part can be found, and the reason if that is the sensor's, or "".

    Codes of patches depend on their direction, so parts that lie in any direction are turned upright.
    """
    faithful = shape_guided_part(recipe).mode == "faithful"
    return preferred_view_of(recipe, faithful=faithful, clouds=True, normals=True, both="top")
