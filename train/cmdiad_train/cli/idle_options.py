"""Name options that a family has but that change nothing in the detector that the command line describes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from cmdiad_train.detectors.registry import family_of

if TYPE_CHECKING:
    from cmdiad_train.recipe import Recipe


def idle_options(context: click.Context, recipes: Iterable[Recipe]) -> dict[str, str]:
    """Return the given options that change nothing in any of the detectors, each with the reason.

    Args:
        context: Context of `cmdiad-train` with the values of all options.
        recipes: Recipes of the detectors that the command line trains; at least one.
    """
    first, *others = (family_of(recipe.family).idle(recipe) for recipe in recipes)
    idle = {}
    for option in context.command.get_params(context):
        name = str(option.name)
        is_given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if is_given and name in first and all(name in further for further in others):
            idle[option.opts[0]] = first[name]
    return idle


def warnings(context: click.Context, recipes: Iterable[Recipe]) -> list[str]:
    """Return a line for each given option that changes nothing; arguments as of `idle_options`."""
    return [f"warning: {name} changes nothing: {why}" for name, why in idle_options(context, recipes).items()]
