"""`Fleet`: the checked content of a fleet file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdiad_fleet.training.fleet_file.sections import General, RecipeSection, Sweep


@dataclass(frozen=True)
class Detector:
    """One detector of a fleet: a category and a recipe.

    Attributes:
        name: Name of the detector and of its folder.
        data: Folder of the data set.
        category: Name of the category.
        recipe: Name of the recipe.
    """

    name: str
    data: Path
    category: str
    recipe: str


@dataclass(frozen=True)
class Fleet:
    """Checked content of a fleet file.

    Attributes:
        general: Folders.
        recipes: Recipes by name.
        detectors: Detectors in the order of the file.
        export: Options of `cmdiad-export` by name; None to write no bundles.
        sweep: Search over the options of one recipe, or None.
    """

    general: General
    recipes: Mapping[str, RecipeSection]
    detectors: tuple[Detector, ...]
    export: Mapping[str, Any] | None
    sweep: Sweep | None
