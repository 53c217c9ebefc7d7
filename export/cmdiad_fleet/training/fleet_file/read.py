"""Read a fleet file, and report every mistake in it at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from cmdiad_fleet.training.fleet_file.fleet import Detector, Fleet
from cmdiad_fleet.training.fleet_file.mistakes import FleetFileError
from cmdiad_fleet.training.fleet_file.options import EXPORT, TRAIN, mistakes_in
from cmdiad_fleet.training.fleet_file.sections import (
    MOST_TRIALS,
    RECIPE_NAME,
    DataSet,
    General,
    RecipeSection,
    Sweep,
)
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.support.toml_file.read import TomlReader, nearest

_EVERY_COMBINATION = 100_000
"""Largest number of combinations of a sweep's values."""


def read_fleet(path: Path) -> Fleet:
    """Read and check a fleet file. Nothing is trained or written.

    Args:
        path: TOML file. Relative paths in the file refer to its folder.

    Raises:
        FleetFileError: The file is missing, is no TOML, or has mistakes; all of them are listed.
    """
    file = path.absolute()
    reader = _FleetReader(file, kind="a fleet file", page="docs/fleet-training.md")
    fleet = reader.fleet() if reader.readable else None
    if reader.mistakes or fleet is None:
        raise FleetFileError(file, list(dict.fromkeys(reader.mistakes)))
    return fleet


class _FleetReader(TomlReader):
    """Reader of the sections of a fleet file, and of the options in them."""

    def fleet(self) -> Fleet | None:
        """Return the fleet, or None after a mistake."""
        self.check_names(["fleet", "data", "recipe", "export", "sweep"])
        general = self.required("fleet", General)
        recipes = self._recipes()
        sets = [self.fill("data", DataSet, table, index) for index, table in enumerate(self.tables("data", "folder"))]
        export = self._export()
        sweep = self._sweep(recipes)
        detectors = [
            detector
            for index, data in enumerate(sets)
            if data is not None
            for detector in self._detectors(data, index, recipes, sweep)
        ]
        if general is not None:
            self._check_detectors(detectors, general)
        if sweep is not None and not self.mistakes and sweep.recipe not in {detector.recipe for detector in detectors}:
            problem = f"{sweep.recipe!r}, which no section [[data]] uses"
            self.add("sweep", "recipe", problem, "a recipe that is trained", "correct recipe, or remove the sweep")
        if general is None or self.mistakes:
            return None
        return Fleet(general, recipes, tuple(detectors), export, sweep)

    def _recipes(self) -> dict[str, RecipeSection]:
        from cmdiad_train.cli.train import cli

        tables = self.content.get("recipe")
        if not isinstance(tables, dict) or not tables:
            self.add("recipe", "", "no recipe", "at least one section [recipe.NAME]", "add [recipe.NAME]")
            return {}
        recipes = {}
        for name, table in tables.items():
            section = f"recipe.{name}"
            if RECIPE_NAME.fullmatch(name) is None or not isinstance(table, dict):
                expected = "a section [recipe.NAME] whose name has letters, digits, hyphens, dots and underscores"
                self.add(section, "", f"{name!r:.60}", expected, "correct the name of the section")
                continue
            recipe = self.fill(section, RecipeSection, table, 0)
            if recipe is not None:
                recipes[name] = recipe
                self._check_options(f"{section}.train", recipe.train, cli, TRAIN)
        return recipes

    def _export(self) -> Mapping[str, Any] | None:
        from cmdiad_export.cli import cli

        table = self.content.get("export")
        if table is None:
            return None
        if not isinstance(table, dict):
            self.add("export", "", "a section in double brackets", "a section [export]", "write [export]")
            return None
        self._check_options("export", table, cli, EXPORT)
        if table.get("target") == "tensorrt":
            expected = "onnx, rtx or auto, because such an engine is built on its device"
            self.add("export", "target", "tensorrt", expected, "run cmdiad-build BUNDLE on the device")
        return table

    def _sweep(self, recipes: Mapping[str, RecipeSection]) -> Sweep | None:
        from cmdiad_fleet.training.sweep import combinations, points_of
        from cmdiad_train.cli.train import cli

        sweep = self.section("sweep", Sweep) if "sweep" in self.content else None
        if sweep is None:
            return None
        if sweep.recipe not in recipes:
            expected = f"one of {', '.join(recipes)}"
            self.add("sweep", "recipe", f"{sweep.recipe!r}", expected, nearest(sweep.recipe, list(recipes)))
        for key, values in sweep.values.items():
            for value in values:
                self._check_options("sweep.values", {key: value}, cli, TRAIN)
        if combinations(sweep) > _EVERY_COMBINATION:
            expected = f"at most {_EVERY_COMBINATION}"
            self.add("sweep", "values", f"{combinations(sweep)} combinations", expected, "remove values")
        elif len(points_of(sweep)) > MOST_TRIALS:
            expected = f"at most {MOST_TRIALS}"
            action = 'remove values, or set search = "random"'
            self.add("sweep", "values", f"{combinations(sweep)} trials", expected, action)
        return sweep

    def _check_options(self, section: str, options: Mapping[str, Any], command: click.Command, program: str) -> None:
        for mistake in mistakes_in(options, command, program):
            self.add(section, mistake.key, mistake.problem, mistake.expected, mistake.action)

    def _detectors(
        self, data: DataSet, index: int, recipes: Mapping[str, RecipeSection], sweep: Sweep | None
    ) -> Iterator[Detector]:
        """Yield the detectors of a data set; a recipe that does not fit the data set is a mistake."""
        for name in data.recipes:
            if name not in recipes:
                expected = f"names of {', '.join(recipes)}"
                self.add("data", "recipes", f"{name!r}", expected, nearest(name, list(recipes)), index=index)
        chosen = [name for name in data.recipes or recipes if name in recipes]
        categories = self._categories(data, index)
        sound = [name for name in chosen if self._is_sound(f"recipe.{name}")]
        for name in sound:
            self._check_recipe(data, name, recipes[name], sweep)
        for category in categories:
            for name in chosen:
                yield Detector(f"{data.prefix}{category}-{name}", data.folder, category, name)

    def _is_sound(self, section: str) -> bool:
        """Return True if neither a section nor the sweep has a mistake."""
        return not any(f"{mistake.subject}.".startswith((f"{section}.", "sweep.")) for mistake in self.mistakes)

    def _categories(self, data: DataSet, index: int) -> list[str]:
        from cmdiad_train.datasets import list_categories, open_category

        names = []
        try:
            for name in data.categories or list_categories(data.folder):
                names.append(open_category(data.folder, name).name)
        except CmdiadError as error:
            key = "categories" if data.categories else "folder"
            of_train = "--category" in error.action  # An option of cmdiad-train, which a fleet file does not have.
            action = "correct the names, or remove categories to train all" if of_train else error.action
            self.add("data", key, f"{error.subject} with {error.found}", error.expected, action, index=index)
        return names

    def _check_recipe(self, data: DataSet, name: str, recipe: RecipeSection, sweep: Sweep | None) -> None:
        """Add a mistake if the options of a recipe, or of one of its trials, do not go together."""
        from cmdiad_fleet.training.resolve import resolve
        from cmdiad_fleet.training.sweep import points_of

        searched = sweep is not None and sweep.recipe == name
        section = "sweep" if searched else f"recipe.{name}"
        for point in points_of(sweep) if sweep is not None and searched else [{}]:
            options = f" ({', '.join(f'{key} = {value}' for key, value in point.items())})" if point else ""
            try:
                resolve(data.folder, {**recipe.train, **point})
            except CmdiadError as error:
                expected = error.expected or "options that go together"
                self.add(section, "", f"{error.subject} {error.found}{options}", expected, error.action)
            except click.UsageError as error:
                problem = f"{error.format_message().rstrip('.')}{options}"
                self.add(section, "", problem, "options that go together", "correct the options")

    def _check_detectors(self, detectors: list[Detector], general: General) -> None:
        for name, count in Counter(detector.name for detector in detectors).items():
            if count > 1:
                expected = "one detector of each name"
                self.add("data", "", f"{count} detectors {name}", expected, "set prefix in one section [[data]]")
        for folder in {detector.data.resolve() for detector in detectors}:
            if general.out.resolve().is_relative_to(folder):
                self.add("fleet", "out", f"a folder in the data set {folder}", "a folder elsewhere", "correct out")
