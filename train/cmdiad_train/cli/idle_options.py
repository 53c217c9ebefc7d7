"""Refuse options that a family has but that change nothing in the detector that the command line describes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from cmdiad_train.detectors.registry import family_of

if TYPE_CHECKING:
    from cmdiad_train.recipe import Recipe


class IdleOptionError(click.UsageError):
    """An option of the command line changes nothing.

    Attributes:
        option: Name of the option without dashes at the front, for example `rgb-backbone`.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"--{option} changes nothing here: {reason}. Leave out --{option}.")
        self.option = option


def refuse_idle_options(context: click.Context, recipes: Iterable[Recipe]) -> None:
    """Raise IdleOptionError if an option of the command line changes nothing in any of the detectors.

    Args:
        context: Context of `cmdiad-train` with the values of all options.
        recipes: Recipes of the detectors that the command line trains; at least one.
    """
    first, *others = (family_of(recipe.family).idle(recipe) for recipe in recipes)
    for option in context.command.get_params(context):
        name = str(option.name)
        is_given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if is_given and name in first and all(name in idle for idle in others):
            raise IdleOptionError(option.opts[0].removeprefix("--"), first[name])
