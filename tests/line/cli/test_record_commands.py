"""The commands about records and recipes, on stopped and running stations."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
from click.testing import CliRunner

from cmdiad_line.cli.line import cli
from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.records.database import Database, database_path
from cmdiad_line.records.reading import RecordReader
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.support.lock import lock_folder
from graphs import tiny_bundle
from helpers import rewrite_manifest
from record_rows import a_record, a_rejected
from stations import write_station_file


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    database = Database(folder)
    with database.transaction() as rows:
        rows.record(a_record(1))
        rows.record(a_rejected(2))
    database.close()
    return folder


@pytest.fixture
def bundle(tmp_path):
    return tiny_bundle(tmp_path / "tiny.cmdiad")


def run(*arguments):
    """Run a command; return exit code and output. Deliberate errors give their exit code and message."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)
    if isinstance(result.exception, CmdiadError):
        return result.exception.exit_code, str(result.exception)
    if result.exception is not None:
        raise result.exception
    return result.return_value or 0, result.output


def change(state, statement):
    connection = sqlite3.connect(database_path(state))
    connection.execute(statement)
    connection.commit()
    connection.close()


def audit(state):
    with RecordReader(state) as records:
        return [(entry.action, entry.subject) for entry in records.audit()]


def test_verify_says_that_every_row_fits(state):
    code, output = run("verify", state)
    assert code == 0
    assert "2 results" in output
    assert "verified: every row fits" in output


def test_verify_names_the_first_bad_row(state):
    change(state, "UPDATE results SET verdict = 'OK', reason = '' WHERE acquisition_id = 2")
    code, output = run("verify", database_path(state))
    assert code == 3
    assert "part 2" in output


def test_renew_needs_a_stopped_station(state):
    with lock_folder(state):
        code, output = run("renew", state)
    assert code == 6
    assert "stop the station" in output.lower()
    code, output = run("renew", state, "--note", "disk replaced")
    assert code == 0
    assert audit(state) == [("records-continued", "")]


@pytest.mark.parametrize(("options", "count"), [((), 2), (("--verdict", "NG"), 1), (("--until", "2026-11-26"), 0)])
def test_export(tmp_path, state, options, count):
    code, output = run("export", state, "--out", tmp_path / "out.csv", *options)
    assert (code, f"{count} results" in output) == (0, True)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == count + 1


def test_export_of_a_running_station_with_pictures(tmp_path, state):
    with lock_folder(state):
        code, output = run("export", state, "--out", tmp_path / "out", "--format", "pictures")
    assert (code, "2 results" in output) == (0, True)


def test_adding_a_recipe_repeats_what_speaks_against_its_verdicts(tmp_path, state, bundle):
    weak = "Only 1 of 8 held-out samples with an obvious artificial defect exceed the threshold"
    other = tiny_bundle(tmp_path / "other.cmdiad", name="other")
    rewrite_manifest(other, lambda m: m.update(provenance={"data": {"not_separated": weak}}))
    unrecorded = "warning: the held-out scores are not recorded"
    assert unrecorded in run("recipe", "add", state, bundle, "--id", "gear")[1]
    by_hand = run("recipe", "add", state, bundle, "--id", "gear-2", "--threshold", "5")[1]
    assert unrecorded not in by_hand, "doubts are those about the threshold of the recipe"
    assert f"warning: {weak}\n" in run("recipe", "add", state, other, "--id", "bolt")[1]


def test_recipes_by_commands(tmp_path, state, bundle):
    other = tiny_bundle(tmp_path / "other.cmdiad", name="other")
    assert run("recipe", "add", state, bundle, "--id", "gear", "--product", "A-17")[0] == 0
    assert run("recipe", "add", state, other, "--id", "bolt")[0] == 0
    for name in ("gear", "bolt"):
        code, output = run("recipe", "activate", state, name)
        assert (code, "Self-test passed" in output) == (0, True)
    assert "* bolt" in run("recipe", "list", state)[1]
    assert "gear is the active recipe" in run("recipe", "rollback", state)[1]
    assert RecipeStore(state).active().recipe_id == "gear"
    assert audit(state)[:5] == [
        ("rollback", "gear"),
        ("activate", "bolt"),
        ("activate", "gear"),
        ("recipe-added", "bolt"),
        ("recipe-added", "gear"),
    ]


@pytest.mark.parametrize("place", ["station.toml", "state"])
def test_recipe_without_its_sensor_is_not_activated(tmp_path, state, bundle, place):
    """The station file is named, or the state folder has the copy of the last run."""
    file = write_station_file(tmp_path, bundle, tmp_path, source={"delivers": "rgb"})
    if place == "state":
        (state / "run").mkdir()
        file.rename(state / "run" / "station.toml")
    run("recipe", "add", state, bundle, "--id", "gear")
    code, output = run("recipe", "activate", tmp_path / place, "gear")
    assert (code, "delivers xyz" in output) == (1, True)
    assert RecipeStore(state).active() is None


def test_running_station_takes_a_recipe_but_is_not_switched(state, bundle):
    with lock_folder(state):
        assert run("recipe", "add", state, bundle, "--id", "gear")[0] == 0
        code, output = run("recipe", "activate", state, "gear")
        assert code == 6
        assert "engineer page" in output
        assert run("recipe", "rollback", state)[0] == 6
    assert RecipeStore(state).active() is None


def test_replaced_bundle_is_not_activated(tmp_path, state, bundle):
    run("recipe", "add", state, bundle, "--id", "gear")
    store = RecipeStore(state)
    path = store.path_of(store.recipe("gear"))
    shutil.rmtree(path)
    tiny_bundle(path, name="other")
    code, output = run("recipe", "activate", state, "gear")
    assert code == 4
    assert "was replaced" in output
    assert store.active() is None


def test_missing_state_is_explained(tmp_path):
    code, output = run("verify", tmp_path / "nothing")
    assert code == 6
    assert "state folder or a station file" in output
