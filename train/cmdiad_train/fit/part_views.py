"""The view in which a detector sees its parts: which one fits the recipe, and what it learns from training parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.prepare import Preprocessing, part_in_image, plan_cloud_of
from cmdiad_runtime.preprocess.views.part_view import learn_image_view
from cmdiad_runtime.preprocess.views.top_settings import learn_plan
from cmdiad_runtime.preprocess.views.top_view import PlanCloud
from cmdiad_runtime.sample import Mask, RgbImage, Sample
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.recipe import Recipe, View

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Part:
    """What a view needs of a part.

    Attributes:
        cloud: its points on the support plane, where it is seen from above.
        image: the image, and the part's pixels in it, where it is cut out.
    """

    cloud: PlanCloud | None
    image: tuple[RgbImage, Mask] | None


def follow_parts(
    train: Sequence[SampleFiles],
    others: Iterable[SampleFiles],
    recipe: Recipe,
    preprocessing: Preprocessing,
    report: Report,
) -> tuple[View, Preprocessing, str]:
    """The view of a recipe, the preprocessing with what that view learns, and why it is not the one wished for, or "".

    Args:
        train: of the main category; direction and scale of the parts are learnt from them.
        others: what has to be seen in the same view; looked at where the recipe leaves the view open.
        recipe: asks for a view, or "auto".
        preprocessing: as the sensor sees.
        report: told of the progress.

    Raises:
        InputError: a sample cannot be read, or the view that is asked for does not find its part.
    """
    view, reason = (recipe.view, "") if recipe.view != "auto" else wished_view(recipe)
    parts = []
    for i, files in enumerate(train if view != "sensor" else ()):
        sample = files.read(preprocessing.colour)
        try:
            parts.append(_find(sample, view, preprocessing))
        except InputError as error:
            if recipe.view != "auto":
                raise
            return "sensor", preprocessing, _no_part(error)
        report("turn parts upright", i + 1, len(train))
    if recipe.view == "auto" and view != "sensor":
        for files in others:
            sample = files.read(preprocessing.colour)
            try:
                _find(sample, view, preprocessing)
            except InputError as error:
                return "sensor", preprocessing, _no_part(error)
    return view, _learnt(parts, preprocessing), reason


def wished_view(recipe: Recipe) -> tuple[View, str]:
    """The view that is best for a recipe's sensors if every part can be found, and why it is the sensor's, or ""."""
    if recipe.mode == "faithful":
        return "sensor", "the published code has no other"
    if recipe.rgb_mask == "cloud":
        return "sensor", "the image is masked by the cloud"
    if recipe.modality == "rgb" and recipe.hallucination == "none":
        return "part", ""
    if not recipe.has_normals:
        return "sensor", "clouds are not seen as surface normals"
    if not recipe.foreground:
        return "sensor", "the support is not removed from clouds"
    views: dict[str, View] = {"rgb": "part", "xyz": "top", "both": "each"}
    return views[recipe.modality], ""


def _find(sample: Sample, view: View, preprocessing: Preprocessing) -> _Part:
    cloud = plan_cloud_of(sample, preprocessing) if view in ("top", "each") else None
    if view == "top":
        return _Part(cloud, None)
    assert sample.rgb is not None
    return _Part(cloud, (sample.rgb, part_in_image(sample)))


def _no_part(error: InputError) -> str:
    return f"{error.subject}: found {error.found}, expected {error.expected}"


def _learnt(parts: Sequence[_Part], preprocessing: Preprocessing) -> Preprocessing:
    clouds = [part.cloud for part in parts if part.cloud is not None]
    images = [part.image for part in parts if part.image is not None]
    if clouds:
        preprocessing = replace(preprocessing, plan=learn_plan(clouds))
    if images:
        part = learn_image_view([rgb for rgb, _ in images], [mask for _, mask in images])
        preprocessing = replace(preprocessing, part=part)
    return preprocessing
