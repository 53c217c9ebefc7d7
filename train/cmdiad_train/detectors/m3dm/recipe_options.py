"""The recipe of M3DM from the options of `cmdiad-train`: that of memory banks, and the fusion of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from cmdiad_train.detectors.bank.recipe_options import recipe_from as bank_recipe_from
from cmdiad_train.detectors.extractor_options import preset_remark
from cmdiad_train.recipe import (
    PUBLISHED_M3DM,
    PUBLISHED_RGB,
    BankRecipe,
    M3dmRecipe,
    Recipe,
    bank_part,
    m3dm_part,
    with_three_taps,
)

_OF_NETWORK = ("pairing", "temperature", "epochs", "batch", "learning_rate", "patience")
_OWN = ("feature_fusion", *_OF_NETWORK)
_OF_HALLUCINATION = ("epochs", "batch", "learning_rate", "patience", "loss", "f2f_output", "distil_validation")
"""Options of the distillation network of banks, some of which are options of the fusion network here."""


def recipe_from(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options; missing values are those of the mode.

    Args:
        options: Values of the options of `cmdiad-train` by parameter name; None for an option that is not given.
        categories: Returns the names of all categories of the data set; not used.

    Raises:
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options contradict each other.
    """
    unused = {**dict.fromkeys(_OF_HALLUCINATION), "hallucination": "none", "distil_on": None, "distances": "plain"}
    banks = bank_recipe_from({**options, **unused, "paper": None}, categories)
    base = PUBLISHED_M3DM if options["mode"] == "faithful" else M3dmRecipe()
    used = [field.name for field in fields(BankRecipe) if field.name != "distillation"]
    of_banks = {name: getattr(bank_part(banks), name) for name in used}
    own = {name: options[name] for name in _OWN if options[name] is not None}
    part = replace(base, **of_banks, **own)
    if part.points is not None:
        part = replace(part, xyz=with_three_taps(part.points))
    if part.mode == "faithful" and part.feature_fusion == "none" and options["image_score"] is None:
        part = replace(part, image_score="thousandth")
    return replace(banks, detector=part)


_NOT_PUBLISHED = (
    "M3DM for one sensor, with one half of the fusion network, is a variant of cmdiad that is not published. Compare "
    "the detector with --family bank."
)


def remarks(options: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return lines that say why the extractor was chosen, what is not published, or what a faithful recipe lacks."""
    part = m3dm_part(recipe)
    if part.mode == "default":
        return [*preset_remark(options), *([] if recipe.modality == "both" else [_NOT_PUBLISHED])]
    missing = []
    if recipe.rgb_mask == "none":
        missing.append("images are blacked out outside the part: add --rgb-mask cloud")
    if part.points is None or part.points.weights == "seeded":
        missing.append("the point extractor has trained weights: add --xyz point_mae --xyz-weights FILE")
    if part.rgb.backbone != PUBLISHED_RGB.backbone or part.rgb.weights == "seeded":
        missing.append("the image extractor is a trained DINO ViT-B/8: leave out --rgb-backbone and --rgb-weights")
    if part.rgb.layers:
        missing.append("features are those of the last block, normalised: leave out --rgb-layers")
    return [f"The published protocol differs from this training: {line}." for line in missing]


def idle_options(recipe: Recipe) -> dict[str, str]:
    """Return the options that change nothing, with the reason; see `Family.idle`."""
    part = m3dm_part(recipe)
    idle: dict[str, str] = {}
    if part.feature_fusion == "none":
        idle = dict.fromkeys(_OF_NETWORK, "with --feature-fusion none no network is trained")
    if part.mode == "faithful":
        idle["series"] = "with --mode faithful the held-out samples alone set the threshold"
    return idle
