"""Preprocessing of the memory bank family: inputs of each modality, preferred view, modality of training samples."""

from __future__ import annotations

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Modality, Sensors, ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_train.detectors.preferred_view import preferred_view_of
from cmdiad_train.recipe import Recipe, bank_part


def make_preprocessing(recipe: Recipe, colour: Colour, modality: Sensors | None = None) -> Preprocessing:
    """Return the preprocessing of a modality in the view of the sensor.

    Args:
        recipe: Recipe of the detector.
        colour: Kind of the images.
        modality: Modality of the inputs; None takes the modality of inspection.
    """
    part = bank_part(recipe)
    points = part.points
    asked = modality or recipe.modality
    return Preprocessing(
        modality=asked,
        size=recipe.size,
        pad_multiple=100 if part.mode == "faithful" else 1,
        colour=colour,
        rgb_mask=recipe.rgb_mask,
        foreground=recipe.foreground,
        groups=points.groups if points else 0,
        group_size=points.group_size if points else 0,
        grid=points.grid if points else 0,
        xyz_feed="points" if points else part.xyz.image,  # type: ignore[union-attr]  # then it is a SurfaceExtractor
        xyz_image=points is not None and shown_modality(recipe) == "xyz" and asked != "rgb",
        seed=recipe.seed,
        image_modality=recipe.image_modality,
    )


def shown_modality(recipe: Recipe) -> Modality | None:
    """Return the modality that the distillation network takes, or generates, as an image."""
    return {"i2f": recipe.mains[0], "f2i": recipe.other}.get(bank_part(recipe).hallucination)


def trained_modality(recipe: Recipe) -> Sensors:
    """Return "both" if a distillation network is trained on images and clouds, else the modality of inspection."""
    part = bank_part(recipe)
    return recipe.modality if part.hallucination == "none" or part.partner is not None else "both"


def joint_categories(recipe: Recipe) -> tuple[str, ...]:
    """Return the further categories whose good samples train the distillation network."""
    return bank_part(recipe).distillation.categories


def preferred_view(recipe: Recipe) -> tuple[ViewName, str]:
    """Return the best view for a recipe if every part can be found, and the reason if that is the sensor's, or ""."""
    part = bank_part(recipe)
    return preferred_view_of(
        recipe,
        faithful=part.mode == "faithful",
        clouds=trained_modality(recipe) != "rgb",
        normals=part.has_normals,
        both="each",
    )
