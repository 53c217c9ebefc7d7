"""Preprocessing of 3DSR: inputs of each modality, and the preferred view."""

from __future__ import annotations

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Sensors, ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing, XyzFeed
from cmdiad_train.detectors.image_preprocessing import image_preprocessing
from cmdiad_train.detectors.preferred_view import preferred_view_of
from cmdiad_train.recipe import Recipe, dsr3d_part


def make_preprocessing(recipe: Recipe, colour: Colour, modality: Sensors) -> Preprocessing:
    """Return the preprocessing of a modality in the view of the sensor.

    Args:
        recipe: Recipe of the detector.
        colour: Kind of the images.
        modality: Modality of the inputs.
    """
    part = dsr3d_part(recipe)
    normals = part.geometry == "normals" or modality == "rgb"
    feed: XyzFeed = "normals" if normals else "published-depth"
    return image_preprocessing(recipe, colour, modality, xyz_feed=feed, faithful=part.mode == "faithful")


def preferred_view(recipe: Recipe) -> tuple[ViewName, str]:
    """Return the best view for a recipe if every part can be found, and the reason if that is the sensor's, or ""."""
    part = dsr3d_part(recipe)
    return preferred_view_of(
        recipe,
        faithful=part.mode == "faithful",
        clouds=recipe.modality != "rgb",
        normals=part.geometry == "normals",
        both="top",
    )
