"""PatchCore (Roth et al., CVPR 2022, arXiv 2106.08265) as settings of the memory bank family.

Features of a CNN, averaged over 3×3 cells; a coreset of the features of good parts; the largest distance to the
nearest row, weighted as in the paper. docs/patchcore.md says what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cmdiad_train.detectors.bank.family import BANK
from cmdiad_train.detectors.bank.options import PATCHCORE_OPTIONS
from cmdiad_train.detectors.bank.paper import stored_weights
from cmdiad_train.detectors.bank.recipe_options import recipe_from, remarks
from cmdiad_train.detectors.extractor_options import preset_of_options
from cmdiad_train.recipe import Recipe, bank_part
from cmdiad_train.recipe.rules import require

PUBLISHED_BACKBONE = "wide_resnet50_2.tv_in1k"
PUBLISHED_STAGES = "1,2"
"""The second and third block of a ResNet, with strides 8 and 16."""
PUBLISHED_SIZE = 256
"""Side of the published images before a crop to 224, which is left out: it would leave the border uninspected."""
PUBLISHED_SHARE = 0.1
FINEST_STRIDE = 8


def patchcore_recipe(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options; see `Family.recipe`.

    Raises:
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options contradict each other.
    """
    preset_of_options(options)  # refuses --extractor with --mode faithful
    faithful = options["mode"] == "faithful"
    require(not faithful or options["modality"] == "rgb", "modality", options["modality"], "rgb with --mode faithful")
    no_layers = not (faithful and options["rgb_layers"])
    require(no_layers, "rgb_layers", options["rgb_layers"], "none with --mode faithful, whose features are of a CNN")
    values = dict(options) | {
        "mode": "default",  # the other mode of banks is another published method
        "coreset": options["coreset"] or PUBLISHED_SHARE,
        "verdict": options["verdict"] or "image",
    }
    recipe = recipe_from(values | _published(options) if faithful else values, categories)
    part = replace(bank_part(recipe), image_score="patchcore", components=None, distances="plain")
    return replace(recipe, detector=part)


def _published(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published values of options that are not given."""
    size = options["size"] or PUBLISHED_SIZE
    backbone = options["rgb_backbone"] or PUBLISHED_BACKBONE
    return {
        "size": size,
        "view": options["view"] or "sensor",
        "rgb_backbone": backbone,
        "rgb_weights": options["rgb_weights"] or stored_weights(backbone) or "timm",
        "rgb_stages": options["rgb_stages"] or PUBLISHED_STAGES,
        "rgb_grid": options["rgb_grid"] or size // FINEST_STRIDE,
        "series": options["series"] or "keep",
    }


PATCHCORE = replace(
    BANK,
    name="patchcore",
    options=PATCHCORE_OPTIONS,
    recipe=patchcore_recipe,
    remarks=lambda options, recipe: [] if options["mode"] == "faithful" else remarks(options, recipe),
)
