"""From the options of `cmdiad-train` to a recipe. What a weights file says of itself becomes the default."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import click

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.extractors.weights_file import FORMAT, IMAGES, read_metadata, stored_extractor
from cmdiad_train.recipe import (
    PUBLISHED_I2F_RATE,
    PUBLISHED_RECIPE,
    SMALL_NORMALS,
    SMALL_RGB,
    Distillation,
    Recipe,
    RgbExtractor,
    SurfaceExtractor,
    XyzExtractor,
)

Options = dict[str, Any]

_DISTILLATION = {
    "epochs": "epochs",
    "batch": "batch",
    "learning_rate": "learning_rate",
    "loss": "loss",
    "f2f_output": "output",
    "distil_validation": "validation",
    "patience": "patience",
}
_PLAIN = (
    "modality",
    "hallucination",
    "size",
    "view",
    "rgb_mask",
    "foreground",
    "coreset",
    "components",
    "image_score",
    "fusion",
    "false_reject_rate",
    "seed",
)
_SURFACE = ("surface_backbone", "surface_stages", "surface_grid", "surface_weights")
_POINTS = ("xyz_groups", "xyz_group_size", "xyz_width", "xyz_depth", "xyz_heads", "xyz_grid", "xyz_normalisation")
_FIXED = {"image": ("backbone",), "points": ("network", "width", "depth", "heads")}
"""What a weights file leaves no choice of: its tensors fit nothing else."""


def recipe_from(options: Options, categories: tuple[str, ...]) -> Recipe:
    """The recipe that the options describe, over what weights files say, over the mode's own defaults.

    Args:
        options: of `cmdiad-train`, by name; None where an option is not given.
        categories: that the distillation network is trained on too.

    Raises:
        RunError: an option contradicts a weights file, or the recipe.
        click.UsageError: options that do not go together.
    """
    base = PUBLISHED_RECIPE if options["mode"] == "faithful" else Recipe()
    given: Options = {name: options[name] for name in _PLAIN if options[name] is not None}
    if given.get("components") == 0:
        given["components"] = None
    given.setdefault("size", _told_size(options) or base.size)
    rgb = _image_extractor(options, "rgb", base.rgb)
    return replace(
        base, **given, rgb=rgb, xyz=_xyz(options, base, rgb), distillation=_distillation(options, base, categories)
    )


def _xyz(options: Options, base: Recipe, rgb: RgbExtractor) -> XyzExtractor | SurfaceExtractor:
    told = _told(options["xyz_weights"])
    if isinstance(told, RgbExtractor):
        raise _contradiction("--xyz-weights", options["xyz_weights"], "weights of a point extractor", "an image's")
    kind = options["xyz_kind"] or (told.network if told else None) or _kind_of(base.xyz)
    images = kind in ("normals", "depth")
    idle = [name for name in ((*_POINTS, "xyz_weights") if images else _SURFACE) if options[name] is not None]
    if idle:
        wanted = "point_mae or point_bert" if images else "normals or depth"
        raise click.UsageError(f"--{idle[0].replace('_', '-')} needs --xyz {wanted}; clouds are looked at as {kind}")
    if images:
        own = {"normals": SMALL_NORMALS.backbone.weights, "depth": "seeded"}[kind]
        base_image = replace(rgb, weights=own) if rgb.weights == SMALL_RGB.weights else rgb
        return SurfaceExtractor(kind, _image_extractor(options, "surface", base_image))  # type: ignore[arg-type]
    points = base.points or XyzExtractor()
    asked = {**_given(options, "xyz_", _POINTS), "network": kind}
    if told is not None:
        _check(options["xyz_weights"], told, asked, "points", "--xyz-")
        points = told
    if "depth" in asked and asked["depth"] != points.depth:
        asked["taps"] = tuple(sorted({(asked["depth"] - 1) // 3, asked["depth"] - 1}))
    weights = {} if options["xyz_weights"] is None else {"weights": options["xyz_weights"]}
    return replace(points, **asked, **weights)


def _kind_of(xyz: XyzExtractor | SurfaceExtractor) -> str:
    return xyz.image if isinstance(xyz, SurfaceExtractor) else xyz.network


def _image_extractor(options: Options, prefix: str, base: RgbExtractor) -> RgbExtractor:
    """The extractor of options `PREFIX-…`, over what its weights file says, over a base."""
    names = tuple(f"{prefix}_{name}" for name in ("backbone", "grid", "weights"))
    asked = _given(options, f"{prefix}_", names)
    if options[f"{prefix}_stages"] is not None:
        asked["stages"] = _stages(options[f"{prefix}_stages"], f"--{prefix}-stages")
    told = _told(asked.get("weights"))
    if isinstance(told, XyzExtractor):
        raise _contradiction(f"--{prefix}-weights", asked["weights"], "weights of an image extractor", "a cloud's")
    if told is not None:
        _check(asked["weights"], told, asked, "image", f"--{prefix}-")
    elif asked.get("backbone", base.backbone) != base.backbone:
        asked.setdefault("weights", "seeded")  # another network than the default weights are of
    return replace(told or base, **asked)


def _told(weights: str | None) -> RgbExtractor | XyzExtractor | None:
    """What a weights file of ours says that it is for; None for others, which whoever loads them judges."""
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


def _told_size(options: Options) -> int | None:
    """The size of images that the weights files were made for, if any says so.

    Raises:
        RunError: they were made for several, and no option decides.
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
            found=f"weights for images of {one} pixels beside {second} for {other}",
            expected="one size for both",
            action="say which with --size",
        )
    return next(iter(sizes), None)


def _check(weights: str, told: RgbExtractor | XyzExtractor, asked: Options, kind: str, prefix: str) -> None:
    for name in _FIXED[kind]:
        if name in asked and asked[name] != getattr(told, name):
            option = "--xyz" if name == "network" else prefix + name
            raise _contradiction(option, weights, str(asked[name]), str(getattr(told, name)))


def _contradiction(option: str, weights: str, asked: str, told: str) -> RunError:
    return RunError(
        weights,
        found=f"{told}, where {option} asks for {asked}",
        expected="weights that fit the options",
        action=f"leave out {option}, or name other weights",
    )


def _distillation(options: Options, base: Recipe, categories: tuple[str, ...]) -> Distillation:
    distillation = base.distillation
    if base.mode == "faithful" and options["hallucination"] == "i2f":
        distillation = replace(distillation, learning_rate=PUBLISHED_I2F_RATE[options["modality"]])
    given = {name: options[key] for key, name in _DISTILLATION.items() if options[key] is not None}
    return replace(distillation, **given, categories=categories)


def _given(options: Options, prefix: str, names: tuple[str, ...]) -> Options:
    return {name.removeprefix(prefix): options[name] for name in names if options[name] is not None}


def _stages(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of stages such as 1,2", param_hint=option) from error
