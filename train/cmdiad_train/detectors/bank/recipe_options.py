"""The recipe of a memory bank from the options of `cmdiad-train`. Weights files set the defaults of their options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.bank.options import OPTIONS
from cmdiad_train.detectors.bank.paper import (
    check_row,
    check_weights_of_row,
    missing_of_protocol,
    stored_weights,
)
from cmdiad_train.detectors.bank.preprocessing import trained_modality
from cmdiad_train.detectors.extractor_options import (
    FIXED_FIELDS,
    Options,
    check_stored,
    contradiction,
    image_extractor_of,
    metadata_of,
    options_given,
    preset_of_options,
    stored_extractor_of,
    within_preset,
)
from cmdiad_train.detectors.shared_options import NO_CLOUD, NO_IMAGE
from cmdiad_train.extractors.names import AUTO
from cmdiad_train.extractors.weights_file import IMAGES
from cmdiad_train.recipe import (
    DEFAULT_RECIPE,
    PUBLISHED_I2F_RATE,
    PUBLISHED_RECIPE,
    PUBLISHED_RGB,
    SMALL_NORMALS,
    SMALL_RGB,
    BankRecipe,
    Distillation,
    Recipe,
    RgbExtractor,
    Source,
    SurfaceExtractor,
    XyzExtractor,
    bank_part,
    common_options,
)

_DISTILLATION = {
    "epochs": "epochs",
    "batch": "batch",
    "learning_rate": "learning_rate",
    "loss": "loss",
    "f2f_output": "output",
    "distil_validation": "validation",
    "patience": "patience",
    "hallucination_context": "context",
    "hallucination_coordinates": "coordinates",
    "hallucination_targets": "targets",
    "alignment": "alignment",
}
_PART = (
    "hallucination",
    "coreset",
    "components",
    "image_score",
    "distances",
    "series",
    "fusion",
    "main_bank",
    "residual_map",
    "uncertainty",
    "partner",
    "registered",
)
_SURFACE = ("surface_backbone", "surface_stages", "surface_layers", "surface_grid", "surface_weights")
_POINTS = ("xyz_groups", "xyz_group_size", "xyz_width", "xyz_depth", "xyz_heads", "xyz_grid", "xyz_normalisation")
_SMALL_WEIGHTS = (SMALL_RGB.weights, SMALL_NORMALS.backbone.weights)


def recipe_from(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options; missing ones come from weights files, then from the defaults of the mode.

    Args:
        options: Values of the options of `cmdiad-train` by parameter name; None for an option that is not given.
        categories: Returns the names of all categories of the data set, for `--distil-on all`.

    Raises:
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options contradict each other.
    """
    check_row(options, OPTIONS)
    base = PUBLISHED_RECIPE if options["mode"] == "faithful" else DEFAULT_RECIPE
    part = bank_part(base)
    options, preset = _with_stored_weights(options), preset_of_options(options)
    own: dict[str, Any] = {name: options[name] for name in _PART if options[name] is not None}
    if own.get("components") == 0:
        own["components"] = None
    rgb = image_extractor_of(within_preset(options, preset), "rgb", part.rgb if preset is None else preset.extractor)
    own |= {
        "rgb": rgb,
        "xyz": _xyz(options, part, rgb),
        "distillation": _distillation(options, part, _joint(options["distil_on"], categories)),
        "paper": options.get("paper"),
    }
    common = common_options(options)
    asked = preset.preset.size if preset is not None and options["extractor"] else None
    common.setdefault("size", asked or _size_of_weights(options) or (preset.preset.size if preset else base.size))
    recipe = replace(base, **common, detector=replace(part, **own))
    check_weights_of_row(recipe)
    return recipe


def remarks(options: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return lines about the recipe of the options: why an extractor was chosen, what the paper's protocol has more."""
    part = bank_part(recipe)
    if part.mode == "faithful":
        return missing_of_protocol(recipe)
    preset = preset_of_options(options) if options.get("extractor") in (None, AUTO) else None
    modalities: tuple[Source, ...] = recipe.mains
    if part.hallucination != "none":
        modalities += (part.target(recipe),)
    used = {part.weights(modality) for modality in modalities}
    if preset is None or not used & {preset.extractor.weights, *_SMALL_WEIGHTS}:
        return []
    return [preset.reason()]


def idle_options(recipe: Recipe) -> dict[str, str]:
    """Return the options of a modality that is not read, and of a network that is not trained; see `Family.idle`."""
    part = bank_part(recipe)
    idle: dict[str, str] = {}
    if part.hallucination == "none":
        idle = dict.fromkeys((*_DISTILLATION, "distil_on"), "without --hallucination no network is trained")
    elif part.hallucination != "f2f":
        idle = {"f2f_output": f"--hallucination {part.hallucination} has another network"}
    if trained_modality(recipe) == "both":
        return idle
    if recipe.modality == "rgb":
        # The file of --surface-weights may set the size.
        surface = [name for name in _SURFACE if name != "surface_weights"]
        idle |= dict.fromkeys(("xyz_kind", "xyz_weights", *_POINTS, *surface), NO_CLOUD)
    if recipe.modality == "xyz" and part.points is not None:  # Other options of images may set the size.
        idle |= dict.fromkeys(("rgb_backbone", "rgb_stages", "rgb_layers", "rgb_grid"), NO_IMAGE)
    return idle


def _with_stored_weights(options: Options) -> Options:
    """Return the options with published weights that are stored on this machine, for the mode faithful."""
    if options["mode"] != "faithful":
        return options
    names = {"rgb_weights": ("rgb_backbone", PUBLISHED_RGB.backbone), "xyz_weights": ("xyz_kind", "point_mae")}
    stored: dict[str, str | None] = {
        weights: stored_weights(name)
        for weights, (option, name) in names.items()
        if options[weights] is None and options[option] in (None, name)
    }
    return {**options, **{name: file for name, file in stored.items() if file is not None}}


def _joint(text: str | None, categories: Callable[[], Sequence[str]]) -> tuple[str, ...]:
    if not text:
        return ()
    if text == "all":
        return tuple(categories())
    return tuple(sorted(part.strip() for part in text.split(",") if part.strip()))


def _xyz(options: Options, base: BankRecipe, rgb: RgbExtractor) -> XyzExtractor | SurfaceExtractor:
    stored = stored_extractor_of(options["xyz_weights"])
    if isinstance(stored, RgbExtractor):
        raise contradiction("--xyz-weights", options["xyz_weights"], "weights of a point extractor", "an image's")
    kind = options["xyz_kind"] or (stored.network if stored else None) or _kind_of(base.xyz)
    images = kind in ("normals", "depth")
    idle = [name for name in ((*_POINTS, "xyz_weights") if images else _SURFACE) if options[name] is not None]
    if idle:
        needed = "point_mae or point_bert" if images else "normals or depth"
        raise click.UsageError(f"--{idle[0].replace('_', '-')} needs --xyz {needed}; clouds are seen as {kind}")
    if images:
        own = {"normals": SMALL_NORMALS.backbone.weights, "depth": "seeded"}[kind]
        base_image = replace(rgb, weights=own) if rgb.weights == SMALL_RGB.weights else rgb
        return SurfaceExtractor(kind, image_extractor_of(options, "surface", base_image))  # type: ignore[arg-type]
    points = base.points or XyzExtractor()
    asked = {**options_given(options, "xyz_", _POINTS), "network": kind}
    if stored is not None:
        check_stored(options["xyz_weights"], stored, asked, "points", "--xyz-")
        kept = {name: getattr(stored, name) for name in (*FIXED_FIELDS["points"], "taps")}
        points = replace(points, **kept) if base.mode == "faithful" else stored
    if "depth" in asked and asked["depth"] != points.depth:
        asked["taps"] = tuple(sorted({(asked["depth"] - 1) // 3, asked["depth"] - 1}))
    weights = {} if options["xyz_weights"] is None else {"weights": options["xyz_weights"]}
    return replace(points, **asked, **weights)


def _kind_of(xyz: XyzExtractor | SurfaceExtractor) -> str:
    return xyz.image if isinstance(xyz, SurfaceExtractor) else xyz.network


def _size_of_weights(options: Options) -> int | None:
    """Return the image size that the weights files were made for, or None if they do not say.

    Raises:
        RunError: They were made for two sizes, and `--size` is not given.
    """
    sizes = {}
    for option in ("rgb_weights", "surface_weights"):
        metadata = metadata_of(options[option])
        if metadata is not None and metadata.get("kind") == IMAGES:
            sizes[int(json.loads(metadata["size"]))] = options[option]
    if len(sizes) > 1 and options["size"] is None:
        (one, first), (other, second) = sizes.items()
        raise RunError(
            first,
            found=f"weights for images of {one} pixels, and {second} for {other}",
            expected="one size for both",
            action="Choose one with --size",
        )
    return next(iter(sizes), None)


def _distillation(options: Options, base: BankRecipe, categories: tuple[str, ...]) -> Distillation:
    distillation = base.distillation
    if base.mode == "faithful" and options["hallucination"] == "i2f":
        distillation = replace(distillation, learning_rate=PUBLISHED_I2F_RATE[options["modality"]])
    chosen = {name: options[key] for key, name in _DISTILLATION.items() if options[key] is not None}
    return replace(distillation, **chosen, categories=categories)
