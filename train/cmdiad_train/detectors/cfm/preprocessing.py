"""Preprocessing of crossmodal feature mapping: image and cloud in one view, the cloud as image of surface normals."""

from __future__ import annotations

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Sensors, ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_train.detectors.image_preprocessing import image_preprocessing
from cmdiad_train.detectors.preferred_view import preferred_view_of
from cmdiad_train.recipe import Recipe


def make_preprocessing(recipe: Recipe, colour: Colour, modality: Sensors) -> Preprocessing:
    """Return the preprocessing of a modality in the view of the sensor.

    Args:
        recipe: Recipe of the detector.
        colour: Kind of the images.
        modality: Modality of the inputs.
    """
    return image_preprocessing(recipe, colour, modality, xyz_feed="normals", faithful=False)


def preferred_view(recipe: Recipe) -> tuple[ViewName, str]:
    """Return the best view for a recipe if every part can be found, and the reason if that is the sensor's, or ""."""
    return preferred_view_of(recipe, faithful=False, clouds=True, normals=True, both="top")
