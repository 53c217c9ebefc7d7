"""Preprocessing of crossmodal feature mapping: image and cloud in one view, the cloud as image of surface normals."""

from __future__ import annotations

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Sensors, ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_train.detectors.preferred_view import preferred_view_of
from cmdiad_train.recipe import Recipe


def make_preprocessing(recipe: Recipe, colour: Colour, modality: Sensors) -> Preprocessing:
    """Return the preprocessing of a modality in the view of the sensor.

    Args:
        recipe: Recipe of the detector.
        colour: Kind of the images.
        modality: Modality of the inputs.
    """
    return Preprocessing(
        modality=modality,
        size=recipe.size,
        colour=colour,
        rgb_mask=recipe.rgb_mask,
        foreground=recipe.foreground,
        groups=0,
        group_size=0,
        grid=0,
        xyz_feed="normals",
        seed=recipe.seed,
        image_modality=recipe.image_modality,
    )


def preferred_view(recipe: Recipe) -> tuple[ViewName, str]:
    """Return the best view for a recipe if every part can be found, and the reason if that is the sensor's, or ""."""
    return preferred_view_of(recipe, faithful=False, clouds=True, normals=True, both="top")
