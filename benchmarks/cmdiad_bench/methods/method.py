"""List the methods of a comparison. A method is a detector family with a modality that it can inspect, and a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import click

from cmdiad_bench.settings import setting_errors
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import SENSORS, Modality, Sensors
from cmdiad_runtime.preprocess.prepare import needed_modalities
from cmdiad_train.cli.train import cli as train_command
from cmdiad_train.cli.train import recipes_of
from cmdiad_train.detectors.registry import family_names, family_of, family_options
from cmdiad_train.recipe import Recipe


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: `FAMILY-MODALITY`.
        family: Name of the family, as in `cmdiad-train --family`.
        recipe: Recipe with the settings of the comparison, and the first seed.
        needed: Modalities that training and inspection read.
        seeds: Seeds of the trainings, one for each training on a category; empty for the seed of the recipe alone.
    """

    name: str
    family: str
    recipe: Recipe
    needed: frozenset[Modality]
    seeds: tuple[int, ...] = ()

    @property
    def recipes(self) -> dict[int, Recipe]:
        """Return the recipe of each training on a category, by seed."""
        return {seed: replace(self.recipe, seed=seed) for seed in self.seeds or (self.recipe.seed,)}


@dataclass(frozen=True)
class Choice:
    """Options that select the methods of a comparison.

    Attributes:
        families: Names of the families; empty for all.
        modalities: Modalities that inspection measures; empty for all that a family can inspect.
        settings: Options of `cmdiad-train` by name without dashes, for each family that has the option; a name
            `FAMILY.NAME` is for one family.
        seeds: Seeds of the trainings; empty for one training with the seed of the settings.
    """

    families: tuple[str, ...] = ()
    modalities: tuple[Sensors, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


def methods_of(data: Path, choice: Choice) -> list[Method]:
    """Return the chosen methods, without the modalities that a family cannot inspect.

    Args:
        data: Data set; only the names of its categories are read.
        choice: Families, modalities and settings.

    Raises:
        RunError: Weights are missing, settings contradict each other, or no method is left.
        click.UsageError: A setting is no option that a comparison can set, its value is impossible, or seeds are chosen
            and set.
    """
    seeds = tuple(dict.fromkeys(choice.seeds))
    if seeds and any(name.rpartition(".")[2] == "seed" for name in choice.settings):
        raise click.UsageError("--seed and --set seed=N exclude each other. Leave out one of the two.")
    methods = []
    for family in dict.fromkeys(choice.families or family_names()):
        for modality in dict.fromkeys(choice.modalities or SENSORS):
            recipe = _recipe(data, family, modality, choice)
            if recipe is not None:
                recipe = replace(recipe, seed=(seeds or (recipe.seed,))[0])
                methods.append(Method(f"{family}-{modality}", family, recipe, _needed(recipe), seeds))
    if not methods:
        raise RunError(
            "methods",
            found=f"no family that inspects {' or '.join(choice.modalities)}",
            expected="at least one method",
            action="Choose another --modality or --family",
        )
    return methods


def _recipe(data: Path, family: str, modality: Sensors, choice: Choice) -> Recipe | None:
    """Return the recipe of a family for a modality, or None if the family cannot inspect that modality."""
    arguments = [str(data), "--family", family, "--modality", modality, *_arguments(family, choice.settings)]
    try:
        with setting_errors(choice.settings, family):
            return recipes_of(train_command.make_context("cmdiad-train", arguments))[family]
    except RunError as error:
        if error.subject == "recipe modality":
            return None
        subject = f"{family}-{modality}, {error.subject}"
        raise RunError(subject, found=error.found, expected=error.expected, action=error.action) from error


def _arguments(family: str, settings: Mapping[str, str]) -> Sequence[str]:
    """Return the settings that concern a family, as arguments of `cmdiad-train`."""
    own, all_families = family_options(family), family_names()
    foreign = {text for name in all_families for option in family_options(name) for text in option.opts}
    foreign -= {text for option in own for text in option.opts}
    arguments: list[str] = []
    for name, value in settings.items():
        prefix, dot, rest = name.partition(".")
        if dot and prefix not in all_families:
            raise click.BadParameter(f"{prefix!r} is not one of {', '.join(all_families)}", param_hint="'--set'")
        _require_setting(rest if dot else name)
        if (dot and prefix != family) or (not dot and f"--{name}" in foreign):
            continue
        arguments += [f"--{rest if dot else name}", value]
    return arguments


def _require_setting(name: str) -> None:
    """Raise click.BadParameter for an option of `cmdiad-train` that the comparison sets itself or cannot pass on."""
    settings = {f.name for f in fields(Recipe)} - {"modality", "mask"}
    settings |= {option.name for family in family_names() for option in family_options(family) if option.name}
    if name in {
        text.removeprefix("--")
        for option in train_command.params
        if option.name not in settings
        for text in option.opts
    }:
        raise click.BadParameter(f"{name!r} is no setting of a comparison", param_hint="'--set'")


def _needed(recipe: Recipe) -> frozenset[Modality]:
    trained = family_of(recipe.family).trained_modality(recipe)
    return frozenset(
        modality for used in (trained, recipe.modality) for modality in needed_modalities(used, recipe.rgb_mask)
    )
