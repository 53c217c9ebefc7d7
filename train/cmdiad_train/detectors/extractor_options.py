"""The image extractor that options of `cmdiad-train` name: a preset, a backbone, or the contents of a weights file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors.names import AUTO
from cmdiad_train.extractors.presets import ChosenPreset, choose_preset, preset_of
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.extractors.store import stored_file
from cmdiad_train.extractors.weights_file import FORMAT, read_metadata, stored_extractor
from cmdiad_train.recipe import RgbExtractor, XyzExtractor

Options = Mapping[str, Any]

FIXED_FIELDS = {"image": ("backbone",), "points": ("network", "width", "depth", "heads")}
"""Fields that a weights file fixes, because its tensors fit nothing else."""


def preset_of_options(options: Options) -> ChosenPreset | None:
    """Return the preset of `--extractor`, or None if other options name the image extractor.

    Raises:
        RunError: The weights of the preset are not on this machine.
        click.UsageError: Another option contradicts the preset.
    """
    name = options.get("extractor")
    if options["mode"] == "faithful":
        if name is not None:
            raise click.UsageError("--extractor and --mode faithful exclude each other: its extractors are published.")
        return None
    explicit = {key: options[f"rgb_{key}"] for key in ("backbone", "weights") if options[f"rgb_{key}"] is not None}
    preset = preset_of(name or AUTO)
    if preset is None:
        if explicit and name == AUTO:
            raise click.UsageError(f"--extractor auto chooses the weights; leave out --rgb-{next(iter(explicit))}.")
        return None if explicit else choose_preset(AUTO)
    stored = stored_extractor_of(explicit.get("weights"))
    backbone = explicit.get("backbone") or (stored.backbone if isinstance(stored, RgbExtractor) else None)
    if backbone is not None and backbone.partition(".")[0] != preset.architecture:
        raise click.UsageError(
            f"--extractor {name} has the backbone {preset.architecture}, not {backbone}. Leave out one of the two."
        )
    if "weights" in explicit:
        return ChosenPreset(preset, replace(preset.extractor, weights=explicit["weights"]))
    return choose_preset(preset.name)


def preset_remark(options: Options) -> list[str]:
    """Return a line that says why the image extractor was chosen, or nothing if the options name one."""
    preset = preset_of_options(options) if options.get("extractor") in (None, AUTO) else None
    return [] if preset is None else [preset.reason()]


def with_published_network(options: Options, base: RgbExtractor, *, faithful: bool) -> Options:
    """Return the options for a family that fixes stages and grid itself and has no option of layers.

    In mode faithful, the published weights come from the store if they are there and no option names others.

    Args:
        options: Options of `cmdiad-train`.
        base: Network of the mode.
        faithful: True in mode faithful.
    """
    weights, stored = options["rgb_weights"], stored_file(base.backbone)
    if faithful and stored is not None and options["rgb_backbone"] in (None, base.backbone):
        weights = weights or str(stored)
    return {**options, "rgb_stages": None, "rgb_layers": None, "rgb_grid": None, "rgb_weights": weights}


def within_preset(options: Options, preset: ChosenPreset | None) -> Options:
    """Return the options with the values that a named preset sets, so that a weights file does not change them."""
    if preset is None or options["extractor"] is None:
        return options
    extractor = preset.extractor
    explicit = options["rgb_stages"] is not None or bool(options["rgb_layers"])
    stages = options["rgb_stages"] if explicit else ",".join(map(str, extractor.stages))
    return {**options, "rgb_backbone": None, "rgb_stages": stages, "rgb_grid": options["rgb_grid"] or extractor.grid}


def image_extractor_of(options: Options, prefix: str, base: RgbExtractor) -> RgbExtractor:
    """Return the image extractor of the options `PREFIX-…`; missing ones come from the weights file, then the base.

    Raises:
        RunError: An option contradicts the weights file.
        click.UsageError: Stages and layers are requested.
    """
    names = tuple(f"{prefix}_{name}" for name in ("backbone", "grid", "weights"))
    asked = options_given(options, f"{prefix}_", names)
    asked |= _stages_or_layers(options, prefix)
    stored = stored_extractor_of(asked.get("weights"))
    if isinstance(stored, XyzExtractor):
        raise contradiction(f"--{prefix}-weights", asked["weights"], "weights of an image extractor", "a cloud's")
    if stored is not None:
        check_stored(asked["weights"], stored, asked, "image", f"--{prefix}-")
    elif asked.get("backbone", base.backbone) != base.backbone:
        asked.setdefault("weights", "seeded")  # the default weights are for another network
    base = base if stored is None else replace(stored, mean=base.mean, std=base.std)
    return replace(base, **asked)


def _stages_or_layers(options: Options, prefix: str) -> dict[str, tuple[int, ...]]:
    """Return the requested stages of a CNN or layers of a ViT; either of them replaces the other of the base."""
    requested: dict[str, tuple[int, ...]] = {}
    for name, example in (("stages", "1,2"), ("layers", "3,6")):
        text = options[f"{prefix}_{name}"]
        if text is not None:
            requested[name] = parse_numbers(text, f"--{prefix}-{name}", f"numbers such as {example}")
    if all(requested.get(name) for name in ("stages", "layers")):
        raise click.UsageError(
            f"--{prefix}-stages and --{prefix}-layers exclude each other: a CNN has stages, a ViT has layers."
        )
    none: tuple[int, ...] = ()
    return ({"stages": none, "layers": none} | requested) if any(requested.values()) else requested


def stored_extractor_of(weights: str | None) -> RgbExtractor | XyzExtractor | None:
    """Return the extractor that a weights file of cmdiad was made for, or None for any other file."""
    file = None if weights is None or metadata_of(weights) is None else weights_file(weights)
    return None if file is None else stored_extractor(file)


def metadata_of(weights: str | None) -> dict[str, str] | None:
    """Return the metadata of a weights file of cmdiad, or None for any other file."""
    file = None if weights is None else weights_file(weights)
    if file is None or not file.is_file():
        return None
    try:
        metadata = read_metadata(file)
    except RunError:
        return None
    return metadata if metadata.get("format") == FORMAT else None


def check_stored(weights: str, stored: RgbExtractor | XyzExtractor, asked: Options, kind: str, prefix: str) -> None:
    """Raise RunError if the requested fields contradict the extractor of a weights file.

    Args:
        weights: The weights file.
        stored: Extractor that the file was made for.
        asked: Requested fields of the extractor.
        kind: "image" or "points".
        prefix: Beginning of the options of the fields, for the message.
    """
    for name in FIXED_FIELDS[kind]:
        if name in asked and asked[name] != getattr(stored, name):
            option = "--xyz" if name == "network" else prefix + name
            raise contradiction(option, weights, str(asked[name]), str(getattr(stored, name)))


def contradiction(option: str, weights: str, asked: str, stored: str) -> RunError:
    """Return the error about an option that asks for something else than a weights file contains."""
    return RunError(
        weights,
        found=f"{stored}, where {option} asks for {asked}",
        expected="weights that fit the options",
        action=f"Leave out {option}, or pass other weights",
    )


def options_given(options: Options, prefix: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the options that are not None, without the prefix of their names."""
    return {name.removeprefix(prefix): options[name] for name in names if options[name] is not None}


def parse_numbers(text: str, option: str, expected: str) -> tuple[int, ...]:
    """Return the numbers in a text such as "1,2"; click.BadParameter for any other text.

    Args:
        text: Value of the option.
        option: Name of the option, for the message.
        expected: What the option lists, with an example, for the message: "stages such as 1,2".
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of {expected}", param_hint=option) from error
