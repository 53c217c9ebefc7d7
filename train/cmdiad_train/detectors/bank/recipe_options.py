"""The recipe of a memory bank from the options of `cmdiad-train`. Weights files set the defaults of their options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.extractors.weights_file import FORMAT, IMAGES, read_metadata, stored_extractor
from cmdiad_train.recipe import (
    DEFAULT_RECIPE,
    PUBLISHED_I2F_RATE,
    PUBLISHED_RECIPE,
    SMALL_NORMALS,
    SMALL_RGB,
    BankRecipe,
    Distillation,
    Recipe,
    RgbExtractor,
    SurfaceExtractor,
    XyzExtractor,
    bank_part,
    common_options,
)

Options = Mapping[str, Any]

_DISTILLATION = {
    "epochs": "epochs",
    "batch": "batch",
    "learning_rate": "learning_rate",
    "loss": "loss",
    "f2f_output": "output",
    "distil_validation": "validation",
    "patience": "patience",
}
_PART = ("hallucination", "coreset", "components", "image_score", "fusion")
_SURFACE = ("surface_backbone", "surface_stages", "surface_grid", "surface_weights")
_POINTS = ("xyz_groups", "xyz_group_size", "xyz_width", "xyz_depth", "xyz_heads", "xyz_grid", "xyz_normalisation")
_FIXED = {"image": ("backbone",), "points": ("network", "width", "depth", "heads")}
"""Fields that a weights file fixes, because its tensors fit nothing else."""


def recipe_from(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options; missing ones come from weights files, then from the defaults of the mode.

    Args:
        options: Values of the options of `cmdiad-train` by parameter name; None for an option that is not given.
        categories: Returns the names of all categories of the data set, for `--distil-on all`.

    Raises:
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options contradict each other.
    """
    base = PUBLISHED_RECIPE if options["mode"] == "faithful" else DEFAULT_RECIPE
    part = bank_part(base)
    own: dict[str, Any] = {name: options[name] for name in _PART if options[name] is not None}
    if own.get("components") == 0:
        own["components"] = None
    rgb = _image_extractor(options, "rgb", part.rgb)
    own |= {
        "rgb": rgb,
        "xyz": _xyz(options, part, rgb),
        "distillation": _distillation(options, part, _joint(options["distil_on"], categories)),
    }
    common = common_options(options)
    common.setdefault("size", _size_of_weights(options) or base.size)
    return replace(base, **common, detector=replace(part, **own))


def _joint(text: str | None, categories: Callable[[], Sequence[str]]) -> tuple[str, ...]:
    if not text:
        return ()
    if text == "all":
        return tuple(categories())
    return tuple(sorted(part.strip() for part in text.split(",") if part.strip()))


def _xyz(options: Options, base: BankRecipe, rgb: RgbExtractor) -> XyzExtractor | SurfaceExtractor:
    stored = _stored_extractor(options["xyz_weights"])
    if isinstance(stored, RgbExtractor):
        raise _contradiction("--xyz-weights", options["xyz_weights"], "weights of a point extractor", "an image's")
    kind = options["xyz_kind"] or (stored.network if stored else None) or _kind_of(base.xyz)
    images = kind in ("normals", "depth")
    idle = [name for name in ((*_POINTS, "xyz_weights") if images else _SURFACE) if options[name] is not None]
    if idle:
        needed = "point_mae or point_bert" if images else "normals or depth"
        raise click.UsageError(f"--{idle[0].replace('_', '-')} needs --xyz {needed}; clouds are seen as {kind}")
    if images:
        own = {"normals": SMALL_NORMALS.backbone.weights, "depth": "seeded"}[kind]
        base_image = replace(rgb, weights=own) if rgb.weights == SMALL_RGB.weights else rgb
        return SurfaceExtractor(kind, _image_extractor(options, "surface", base_image))  # type: ignore[arg-type]
    points = base.points or XyzExtractor()
    asked = {**_given(options, "xyz_", _POINTS), "network": kind}
    if stored is not None:
        _check(options["xyz_weights"], stored, asked, "points", "--xyz-")
        points = stored
    if "depth" in asked and asked["depth"] != points.depth:
        asked["taps"] = tuple(sorted({(asked["depth"] - 1) // 3, asked["depth"] - 1}))
    weights = {} if options["xyz_weights"] is None else {"weights": options["xyz_weights"]}
    return replace(points, **asked, **weights)


def _kind_of(xyz: XyzExtractor | SurfaceExtractor) -> str:
    return xyz.image if isinstance(xyz, SurfaceExtractor) else xyz.network


def _image_extractor(options: Options, prefix: str, base: RgbExtractor) -> RgbExtractor:
    """Return the image extractor of the options `PREFIX-…`; missing ones come from the weights file, then the base."""
    names = tuple(f"{prefix}_{name}" for name in ("backbone", "grid", "weights"))
    asked = _given(options, f"{prefix}_", names)
    if options[f"{prefix}_stages"] is not None:
        asked["stages"] = _stages(options[f"{prefix}_stages"], f"--{prefix}-stages")
    stored = _stored_extractor(asked.get("weights"))
    if isinstance(stored, XyzExtractor):
        raise _contradiction(f"--{prefix}-weights", asked["weights"], "weights of an image extractor", "a cloud's")
    if stored is not None:
        _check(asked["weights"], stored, asked, "image", f"--{prefix}-")
    elif asked.get("backbone", base.backbone) != base.backbone:
        asked.setdefault("weights", "seeded")  # the default weights are for another network
    return replace(stored or base, **asked)


def _stored_extractor(weights: str | None) -> RgbExtractor | XyzExtractor | None:
    """Return the extractor that a weights file of cmdiad was made for, or None for any other file."""
    file = None if weights is None or _metadata(weights) is None else weights_file(weights)
    return None if file is None else stored_extractor(file)


def _metadata(weights: str | None) -> dict[str, str] | None:
    file = None if weights is None else weights_file(weights)
    if file is None or not file.is_file():
        return None
    try:
        metadata = read_metadata(file)
    except RunError:
        return None
    return metadata if metadata.get("format") == FORMAT else None


def _size_of_weights(options: Options) -> int | None:
    """Return the image size that the weights files were made for, or None if they do not say.

    Raises:
        RunError: They were made for two sizes, and `--size` is not given.
    """
    sizes = {}
    for option in ("rgb_weights", "surface_weights"):
        metadata = _metadata(options[option])
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


def _check(weights: str, stored: RgbExtractor | XyzExtractor, asked: Options, kind: str, prefix: str) -> None:
    for name in _FIXED[kind]:
        if name in asked and asked[name] != getattr(stored, name):
            option = "--xyz" if name == "network" else prefix + name
            raise _contradiction(option, weights, str(asked[name]), str(getattr(stored, name)))


def _contradiction(option: str, weights: str, asked: str, stored: str) -> RunError:
    return RunError(
        weights,
        found=f"{stored}, where {option} asks for {asked}",
        expected="weights that fit the options",
        action=f"Leave out {option}, or pass other weights",
    )


def _distillation(options: Options, base: BankRecipe, categories: tuple[str, ...]) -> Distillation:
    distillation = base.distillation
    if base.mode == "faithful" and options["hallucination"] == "i2f":
        distillation = replace(distillation, learning_rate=PUBLISHED_I2F_RATE[options["modality"]])
    chosen = {name: options[key] for key, name in _DISTILLATION.items() if options[key] is not None}
    return replace(distillation, **chosen, categories=categories)


def _given(options: Options, prefix: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {name.removeprefix(prefix): options[name] for name in names if options[name] is not None}


def _stages(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of stages such as 1,2", param_hint=option) from error
