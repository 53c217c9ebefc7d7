"""The sections of a fleet file, one dataclass each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cmdiad_runtime.support.records import require, require_integer, require_line, require_number
from cmdiad_runtime.support.toml_file.values import ExistingFolder

RECIPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Form of the name of a recipe: it is part of a folder's name."""
MOST_TRIALS = 1000
"""Largest number of trials of a sweep for each category."""


@dataclass(frozen=True, kw_only=True)
class General:
    """The keys of the section `[fleet]`.

    Attributes:
        out: Folder of the detectors, logs and tables.
        cache: Folder of the feature store of each machine; None for the cache folder of the user.
        cache_gb: Disk space for cached features in gigabytes (1e9 bytes).
    """

    out: Path
    cache: Path | None = None
    cache_gb: float = 50.0

    def __post_init__(self) -> None:
        require_number(self, "cache_gb", 0.1, 1e6)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The keys of a section `[[data]]`.

    Attributes:
        folder: Folder of the data set.
        categories: Categories to train; none for all categories of the data set.
        recipes: Names of the recipes to train; none for all recipes of the file.
        prefix: Text before the names of the detectors, for two data sets with a category of the same name.
    """

    folder: ExistingFolder
    categories: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    prefix: str = ""

    def __post_init__(self) -> None:
        usable = not self.prefix or RECIPE_NAME.fullmatch(self.prefix) is not None
        require(usable, self, "prefix", "letters, digits, hyphens, dots and underscores, a letter or digit first")


@dataclass(frozen=True, kw_only=True)
class RecipeSection:
    """The keys of a section `[recipe.NAME]`.

    Attributes:
        train: Options of `cmdiad-train` by name.
        cpus: Cores of each training.
        memory_gb: Memory that is reserved for each training in gigabytes (1e9 bytes). Ray starts no training for which
            this much is not free.
        gpus: GPUs of each training; 0.25 lets four trainings share a GPU, 0 trains on the CPU.
        retries: Number of times that a training is started again after its process or its machine died.
    """

    train: dict[str, Any] = field(default_factory=dict)
    cpus: int = 1
    memory_gb: float = 2.0
    gpus: float = 0.0
    retries: int = 1

    def __post_init__(self) -> None:
        require_integer(self, "cpus", 1, 1024)
        require_number(self, "memory_gb", 0.1, 1e5)
        require_number(self, "gpus", 0, 64)
        require(self.gpus <= 1 or self.gpus == int(self.gpus), self, "gpus", "a share up to 1, or a whole number")
        require_integer(self, "retries", 0, 100)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The keys of the section `[sweep]`.

    Attributes:
        recipe: Name of the recipe whose options are searched.
        values: Values to try by option of `cmdiad-train`.
        search: "grid" tries all combinations, "random" draws `samples` different ones.
        samples: Number of combinations that "random" draws.
        seed: Seed of "random".
        minutes: Time after which no further trial starts; None for no limit.
    """

    recipe: str
    values: dict[str, tuple[Any, ...]]
    search: Literal["grid", "random"] = "grid"
    samples: int = 16
    seed: int = 0
    minutes: float | None = None

    def __post_init__(self) -> None:
        require_line(self, "recipe", longest=64)
        filled = bool(self.values) and all(self.values.values())
        require(filled, self, "values", "a list of values for each option")
        require_integer(self, "samples", 1, MOST_TRIALS)
        require_integer(self, "seed", 0, 1 << 32)
        if self.minutes is not None:
            require_number(self, "minutes", 0.01, 1e6)
