"""The view that suits a recipe best if every part can be found; the families ask the same questions."""

from __future__ import annotations

from cmdiad_runtime.names import Sensors, ViewName
from cmdiad_train.recipe import Recipe


def preferred_view_of(
    recipe: Recipe, *, faithful: bool, clouds: bool, normals: bool, both: ViewName
) -> tuple[ViewName, str]:
    """Return the best view for a recipe if every part can be found, and the reason if that is the sensor's, or "".

    Args:
        recipe: Recipe of the detector.
        faithful: True if the recipe follows the published code.
        clouds: True if the training reads clouds.
        normals: True if the detector sees clouds as images of metric surface normals, or as patches.
        both: Best view of a detector that inspects with both modalities.
    """
    if faithful:
        return "sensor", "the published code has no other view"
    if recipe.rgb_mask == "cloud":
        return "sensor", "the image is masked by the cloud"
    if clouds and not normals:
        return "sensor", "clouds are not seen as surface normals"
    if clouds and not recipe.foreground:
        return "sensor", "the support is not removed from clouds"
    views: dict[Sensors, ViewName] = {"rgb": "part", "xyz": "top", "both": both}
    return views[recipe.modality], ""
