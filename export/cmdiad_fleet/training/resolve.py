"""Resolve options of `cmdiad-train` to recipes with all defaults, and to the samples that the training reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdiad_fleet.training.fleet_file.options import arguments_of

Source = tuple[str | None, str, tuple[str, ...], str]
"""Category (None for the category of the detector), split, modalities and name of the image that a training reads."""


@dataclass(frozen=True)
class Resolved:
    """Arguments, recipes and samples of a training. The default extractor depends on the weights on this machine.

    Attributes:
        arguments: Arguments of `cmdiad-train` after the data set.
        recipes: Recipe of each family that is trained, as JSON, with all defaults.
        sources: Samples that the training reads.
    """

    arguments: tuple[str, ...]
    recipes: Mapping[str, Any]
    sources: tuple[Source, ...]


def resolve(data: Path, options: Mapping[str, Any]) -> Resolved:
    """Return the recipe of options that have no mistakes by themselves.

    Args:
        data: Folder of the data set.
        options: Values by name of the option of `cmdiad-train`.

    Raises:
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options contradict each other, or belong to another family.
    """
    from cmdiad_runtime.preprocess.prepare import needed_modalities
    from cmdiad_train.cli.train import cli, recipes_of
    from cmdiad_train.detectors.registry import family_of

    arguments = arguments_of(options, cli)
    recipes = recipes_of(cli.make_context(cli.name, [str(data), *arguments]))
    sources: dict[Source, None] = {}
    for name, recipe in recipes.items():
        family = family_of(name)
        trained = needed_modalities(family.trained_modality(recipe), recipe.rgb_mask)
        inspected = needed_modalities(recipe.modality, recipe.rgb_mask)
        image = recipe.image_modality
        sources |= {(None, "train", trained, image): None, (None, "validation", inspected, image): None}
        sources |= {(None, "test", inspected, image): None}
        if (partner := family.partner(recipe)) is not None:
            sources |= {(None, "train", ("rgb",), partner): None}
        sources |= {(category, "train", trained, image): None for category in family.joint_categories(recipe)}
    stored = {name: recipe.to_json() for name, recipe in recipes.items()}
    return Resolved(tuple(arguments), stored, tuple(sources))
