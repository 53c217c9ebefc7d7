"""Preferred view of M3DM; the inputs are those of memory banks."""

from __future__ import annotations

from cmdiad_runtime.names import ViewName
from cmdiad_train.detectors.preferred_view import preferred_view_of
from cmdiad_train.recipe import Recipe, m3dm_part


def preferred_view(recipe: Recipe) -> tuple[ViewName, str]:
    """Return the best view for a recipe if every part can be found, and the reason if that is the sensor's, or ""."""
    part = m3dm_part(recipe)
    return preferred_view_of(
        recipe, faithful=part.mode == "faithful", clouds=True, normals=part.has_normals, both="top"
    )
