"""A running station removes old recipes from its disk, and never one that somebody needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from background_double import Now
from cmdiad_line.recipes.store import ImportOptions, RecipeStore
from cmdiad_line.station_file.read import read_station
from cmdiad_line.supervisor.old_recipes import INTERVAL_NS, OldRecipes
from graphs import tiny_bundle
from stations import write_station_file


class Disk:
    """The state folder of a station that keeps two recipes and has the recipes r0 to r5; r0 is active."""

    def __init__(self, folder: Path) -> None:
        bundle = tiny_bundle(folder / "tiny.cmdiad")
        station = read_station(write_station_file(folder, bundle, folder, recipe={"keep": 2}), running=True)
        self.state, self.noted = station.state, list[Any]()
        self.state.mkdir()
        self.store = RecipeStore(self.state)
        for number in range(6):
            self.add(bundle, number)
        self.store.activate("r0")
        self.bundle, self.background = bundle, Now()
        self.old = OldRecipes(station, self.background, lambda *entry: self.noted.append(entry))

    def add(self, bundle: Path, number: int) -> None:
        self.store.import_bundle(bundle, ImportOptions(recipe_id=f"r{number}", keep=100))

    def candidate(self, name: str, content: str) -> None:
        folder = self.state / "candidates" / name
        folder.mkdir(parents=True)
        (folder / "candidate.json").write_text(content, encoding="utf-8")

    @property
    def ids(self) -> list[str]:
        return [recipe.recipe_id for recipe in self.store.list()]


@pytest.fixture
def disk(tmp_path: Path) -> Any:
    disk = Disk(tmp_path)
    yield disk
    disk.background.close()


def test_active_and_loaded_recipes_and_the_last_ones_stay(disk: Disk) -> None:
    disk.old.remove(frozenset({"r0", "r2"}), 5)
    assert disk.ids == ["r0", "r2", "r4", "r5"]
    assert disk.noted == [("recipes-removed", "", {"recipes": ["r1", "r3"], "keep": 2})]


def test_recipes_are_removed_from_time_to_time(disk: Disk) -> None:
    disk.old.remove(frozenset(), 5)
    disk.add(disk.bundle, 6)
    disk.old.remove(frozenset(), INTERVAL_NS + 4)
    assert "r4" in disk.ids
    disk.old.remove(frozenset(), INTERVAL_NS + 5)
    assert disk.ids == ["r0", "r5", "r6"]


def test_recipe_that_a_candidate_is_to_replace_stays_until_the_candidate_is_a_recipe(disk: Disk) -> None:
    disk.candidate("r7", json.dumps({"base_recipe": "r1"}))
    disk.candidate("r5", json.dumps({"base_recipe": "r2"}))
    disk.old.remove(frozenset(), 5)
    assert disk.ids == ["r0", "r1", "r4", "r5"]


def test_damaged_record_of_a_candidate_removes_nothing(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.candidate("r7", "{")
    before = disk.ids
    disk.old.remove(frozenset(), 5)
    assert (disk.ids, disk.noted) == (before, [])
    assert "old recipes cannot be removed" in caplog.text
