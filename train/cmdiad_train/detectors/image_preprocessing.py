"""Preprocessing of families whose networks see images and clouds as images, without groups of points."""

from __future__ import annotations

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.preprocess.settings import Preprocessing, XyzFeed
from cmdiad_train.recipe import Recipe


def image_preprocessing(
    recipe: Recipe, colour: Colour, modality: Sensors, *, xyz_feed: XyzFeed, faithful: bool
) -> Preprocessing:
    """Return the preprocessing of a modality in the view of the sensor.

    Args:
        recipe: Recipe of the detector.
        colour: Kind of the images.
        modality: Modality of the inputs.
        xyz_feed: Image that is made of a cloud.
        faithful: True if images are resized as in the published code, by bilinear interpolation.
    """
    return Preprocessing(
        modality=modality,
        size=recipe.size,
        colour=colour,
        rgb_mask=recipe.rgb_mask,
        rgb_filter="bilinear" if faithful else "bicubic",
        foreground=recipe.foreground,
        groups=0,
        group_size=0,
        grid=0,
        xyz_feed=xyz_feed,
        seed=recipe.seed,
        image_modality=recipe.image_modality,
    )
