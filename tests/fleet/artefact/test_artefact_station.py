"""A pulled bundle becomes a recipe of a station; a kill at any operation leaves the old or the new state."""

from __future__ import annotations

import json
import sqlite3

import pytest

from cmdiad_fleet.artefact import handover
from cmdiad_fleet.artefact.place import Access, open_place
from cmdiad_fleet.artefact.publish import publish
from cmdiad_fleet.artefact.reference import Reference
from cmdiad_fleet.cli.fleet import cli
from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.records.database import Database
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.reporter import SILENT
from faults import count_operations, fault_at, run_whole, temporary_files
from graphs import tiny_bundle
from helpers import assert_refused, command
from lanes import long
from stations import write_station_file

FLEET = "cmdiad_fleet.cli.fleet:main"


@pytest.fixture
def bundle(tmp_path):
    return tiny_bundle(tmp_path / "tiny.cmdiad")


@pytest.fixture
def name(bundle, tmp_path):
    """Return the name of a published bundle."""
    reference = Reference.parse(f"oci:{tmp_path}/gear.tar")
    publish(Bundle.open(bundle), None, open_place(reference, Access()), "7", SILENT)
    return f"{reference}:7"


@pytest.fixture
def state(tmp_path):
    return new_state(tmp_path / "state")


def new_state(folder):
    """Return the state folder of a station that was started once."""
    folder.mkdir()
    Database(folder).close()
    return folder


def pull(name, state, *options, recipe="gear-7"):
    return command(cli, "pull", name, "--station", state, "--recipe", recipe, "--allow-unsigned", *options)


def test_a_pulled_bundle_becomes_a_recipe_that_is_not_active(name, state, bundle):
    ended = pull(name, state, "--product", "A-17")
    assert ended.code == 0, ended.err
    store = RecipeStore(state)
    assert store.recipe("gear-7").bundle_digest == manifest_hash(Bundle.open(bundle).manifest)
    assert store.recipe("gear-7").product_id == "A-17"
    assert store.active() is None
    assert store.verify("gear-7").name == "tiny"
    assert [path.name for path in (state / "pulls").iterdir()] == [".cmdiad.lock"]


def test_activation_is_the_one_of_the_station(name, state):
    assert "gear-7 is the active recipe." in pull(name, state, "--activate").out
    assert RecipeStore(state).active().recipe_id == "gear-7"


def test_a_running_station_without_pages_is_refused_before_anything_is_received(name, state, tmp_path):
    token = tmp_path / "token"
    token.write_text("abc")
    before = sorted(state.iterdir())
    with lock_folder(state):
        ended = pull(name, state, "--activate", "--station-token", token)
        assert sorted({*state.iterdir()} - {*before}) in ([], [state / ".cmdiad.lock"])
    assert_refused(ended, 11, "web.json", "stop the station")
    assert name not in ended.err


def test_a_folder_that_is_no_state_folder_is_refused(name, tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    assert_refused(pull(name, folder), 6, "records.sqlite", "station file")
    assert list(folder.iterdir()) == []


def test_a_station_file_names_the_state_folder(name, state, bundle, tmp_path):
    file = write_station_file(tmp_path, bundle, tmp_path)
    ended = pull(name, file)
    assert ended.code == 0, ended.err
    assert RecipeStore(state).recipe("gear-7").recipe_id == "gear-7"


def test_a_running_station_gets_the_recipe_and_stays_with_the_active_one(name, state):
    with lock_folder(state):
        assert pull(name, state).code == 0
    store = RecipeStore(state)
    assert store.recipe("gear-7").recipe_id == "gear-7"
    assert store.active() is None
    assert [path.name for path in (state / "pulls").iterdir()] == [".cmdiad.lock"]


def test_an_id_stands_for_one_bundle(name, state, tmp_path):
    assert pull(name, state).code == 0
    other = Reference.parse(f"oci:{tmp_path}/other.tar")
    publish(
        Bundle.open(tiny_bundle(tmp_path / "o.cmdiad", name="other")), None, open_place(other, Access()), "7", SILENT
    )
    assert_refused(pull(f"{other}:7", state), 1, "gear-8")
    assert [path.name for path in (state / "pulls").iterdir()] == [".cmdiad.lock"]
    assert pull(f"{other}:7", state, recipe="gear-8").code == 0


def test_a_station_that_starts_during_the_transfer_is_activated_by_itself(name, state, monkeypatch):
    """The stopped station must not be changed behind the back of the one that has just started."""
    monkeypatch.delenv("CMDIAD_STATION_TOKEN", raising=False)
    running = iter([False, True])
    monkeypatch.setattr(handover, "is_running", lambda state: next(running))
    assert_refused(pull(name, state, "--activate"), 11, "CMDIAD_STATION_TOKEN")
    assert RecipeStore(state).active() is None


@pytest.mark.parametrize("recipe", ["", "../gear", "a/b", "x" * 65])
def test_an_id_that_is_no_id_is_refused(name, state, recipe):
    before = sorted(state.iterdir())
    assert pull(name, state, recipe=recipe).code == 2
    assert sorted(state.iterdir()) == before


def test_the_audit_log_names_the_artefact(name, state):
    pull(name, state)
    with sqlite3.connect(state / "records.sqlite") as database:
        rows = "\n".join(database.iterdump())
    database.close()
    assert f"oci:{state.parent}/gear.tar@sha256:" in rows


def spread(operations, count):
    """Return `count` operations, the first and the last included."""
    return sorted({1 + round(step * (operations - 1) / (count - 1)) for step in range(count)})


@pytest.mark.failure_mode("A pull that is killed, or whose transfer breaks off")
@pytest.mark.parametrize("kills", [3, long(12)])
def test_a_killed_pull_leaves_nothing_or_a_whole_bundle_and_the_next_one_continues(name, bundle, tmp_path, kills):
    def words(folder):
        return [FLEET, "pull", name, "--out", folder / "gear.cmdiad", "--allow-unsigned"]

    (tmp_path / "count").mkdir()
    operations = count_operations(words(tmp_path / "count"), tmp_path / "count")
    assert operations > 15
    while_the_record_is_written = operations - 2
    for number in (*spread(operations, kills), while_the_record_is_written):
        folder = tmp_path / f"kill-{number}"
        folder.mkdir()
        ended = fault_at(words(folder), "kill", number, folder)
        assert ended.code == -9, ended.err
        target = folder / "gear.cmdiad"
        if target.exists():
            assert Bundle.open(target).name == "tiny"
        ended = run_whole(words(folder))
        assert ended.code == 0, ended.err
        assert Bundle.open(target).name == "tiny"
        assert temporary_files(folder) == []
        assert json.loads((folder / "gear.cmdiad.pulled.json").read_text())["name"] == name


@pytest.mark.parametrize("kills", [3, long(12)])
def test_a_killed_hand_over_leaves_the_old_recipes_or_the_new_one(name, tmp_path, kills):
    def words(state):
        return [FLEET, "pull", name, "--station", state, "--recipe", "gear-7", "--activate", "--allow-unsigned"]

    operations = count_operations(words(new_state(tmp_path / "count")), tmp_path / "count")
    for number in spread(operations, kills):
        state = new_state(tmp_path / f"kill-{number}")
        ended = fault_at(words(state), "kill", number, state)
        assert ended.code == -9, ended.err
        store = RecipeStore(state)
        for recipe in store.list():
            assert store.verify(recipe.recipe_id).name == "tiny"
        ended = run_whole(words(state))
        assert ended.code == 0, ended.err
        assert RecipeStore(state).active().recipe_id == "gear-7"
        assert [path.name for path in (state / "pulls").iterdir()] == [".cmdiad.lock"]
