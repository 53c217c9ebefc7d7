"""Preprocessing of reverse distillation: inputs of each modality, preferred view, modality of training samples."""

from __future__ import annotations

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Sensors, ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing, XyzFeed
from cmdiad_train.detectors.image_preprocessing import image_preprocessing
from cmdiad_train.detectors.preferred_view import preferred_view_of
from cmdiad_train.recipe import Recipe, trd_part

_FEEDS: dict[str, XyzFeed] = {"normals": "normals", "pseudo-normals": "pseudo-normals", "depth": "published-depth"}
"""Images of clouds by the geometry of the recipe."""


def make_preprocessing(recipe: Recipe, colour: Colour, modality: Sensors) -> Preprocessing:
    """Return the preprocessing of a modality in the view of the sensor.

    Args:
        recipe: Recipe of the detector.
        colour: Kind of the images.
        modality: Modality of the inputs.
    """
    part = trd_part(recipe)
    feed = _FEEDS[part.geometry]
    return image_preprocessing(recipe, colour, modality, xyz_feed=feed, faithful=part.mode == "faithful")


def trained_modality(recipe: Recipe) -> Sensors:
    """Return "both" if the training hallucinates or distils the missing modality, else the modality of inspection."""
    return "both" if trd_part(recipe).trains_with_both else recipe.modality


def preferred_view(recipe: Recipe) -> tuple[ViewName, str]:
    """Return the best view for a recipe if every part can be found, and the reason if that is the sensor's, or ""."""
    part = trd_part(recipe)
    return preferred_view_of(
        recipe,
        faithful=part.mode == "faithful",
        clouds=part.trains_with_clouds(recipe),
        normals=part.geometry == "normals",
        both="each" if part.variant == "rd" else "top",
    )
