"""`cmdiad-train --modality any` and `cmdiad-export` of its runs. The trainings themselves are doubles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cmdiad_export.cli import cli as export
from cmdiad_runtime.bundle.pattern_bundle import open_pattern_bundle
from cmdiad_runtime.cli.info import cli as info
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import SENSORS
from cmdiad_runtime.support.newest import newest_run
from cmdiad_train.cli.train import cli
from cmdiad_train.evaluation import weakness
from cmdiad_train.fit import pattern_fit
from cmdiad_train.recipe import Recipe, bank_part
from cmdiad_train.runs.pattern_runs import run_of_pattern
from cmdiad_train.runs.record import RunRecord, read_record
from cmdiad_train.runs.run import load_calibration
from helpers import assert_refused, command

Trained = Callable[..., Path]


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch, trained: Trained) -> dict[str, Recipe]:
    """Recipes that were requested, by the folder of the run; finished runs stand in for the trainings."""
    requested: dict[str, Recipe] = {}

    def fit(data: Path, category: str | None, recipe: Recipe, run: Path, *options: object) -> RunRecord:
        requested[run.name] = recipe
        if not run.exists():
            shutil.copytree(trained(recipe.modality), run)
        return read_record(run)

    monkeypatch.setattr(pattern_fit, "fit", fit)
    return requested


def test_every_pattern_is_trained_exported_and_reported(
    data: Path, recipes: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command(cli, data, "--modality", "any", "--hallucination", "f2f", "--seed", 3)
    assert ended.code == 0, ended.err
    assert {
        name: (recipe.modality, bank_part(recipe).hallucination, recipe.seed) for name, recipe in recipes.items()
    } == {
        "both": ("both", "none", 3),
        "rgb": ("rgb", "f2f", 3),
        "xyz": ("xyz", "f2f", 3),
    }
    runs = Path("runs") / "gear-any-f2f"
    assert ended.err.count("threshold: ") == 3
    assert ended.err.count("next: ") == 1 and f"next: cmdiad-export {runs}" in ended.err
    assert newest_run().resolve() == runs.resolve()

    shown = command(info, runs)
    assert shown.code == 0, shown.err
    assert shown.out.count("\nthreshold ") == 3

    exported = command(export, runs, "--out", "gear.cmdiad")
    assert exported.code == 0, exported.err
    assert exported.err.count("threshold: ") == 3
    opened = open_pattern_bundle("gear.cmdiad")
    assert {pattern: bundle.path.name for pattern, bundle in opened.bundles.items()} == {
        pattern: f"gear-{pattern}.cmdiad" for pattern in SENSORS
    }
    assert all(bundle.calibration == load_calibration(runs / pattern) for pattern, bundle in opened.bundles.items())
    assert_refused(command(export, runs, "--out", "gear.cmdiad"), 6, "gear.cmdiad")


def test_weak_detector_of_every_pattern_is_reported(
    data: Path, recipes: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weakness, "weakness", lambda metrics: f"{metrics['samples']} samples, many missed")
    ended = command(cli, data, "--modality", "any", "--out", tmp_path / "runs")
    assert ended.code == 0, ended.err
    assert ended.err.count("warning: 5 samples, many missed") == 3


def test_folder_of_something_else_is_refused(data: Path, recipes: dict[str, Recipe], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear colleague")
    ended = command(cli, data, "--modality", "any", "--out", tmp_path)
    assert_refused(ended, 6, "letter.txt")
    assert recipes == {}


def test_unfinished_runs_are_neither_exported_nor_the_newest(
    data: Path, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    runs = tmp_path / "runs" / "gear-any"
    assert command(cli, data, "--modality", "any", "--out", runs).code == 0
    assert newest_run(tmp_path / "runs") == runs
    record = json.loads((runs / "xyz" / "run.json").read_text())
    (runs / "xyz" / "run.json").write_text(json.dumps({**record, "status": "fitting"}))
    with pytest.raises(RunError, match="No finished run"):
        newest_run(tmp_path / "runs")
    with pytest.raises(RunError, match="no finished run"):
        run_of_pattern(runs, "xyz")
    assert_refused(command(export, runs, "--out", tmp_path / "gear.cmdiad"), 7, runs / "xyz", "--modality any")
    assert not (tmp_path / "gear.cmdiad").exists()


@pytest.mark.parametrize("budget", [["--budget-ms", 10], ["--plan"]])
def test_plan_needs_one_pattern(data: Path, recipes: dict[str, Recipe], tmp_path: Path, budget: list[object]) -> None:
    runs = tmp_path / "runs"
    assert command(cli, data, "--modality", "any", "--out", runs).code == 0
    assert_refused(command(export, runs, *budget, "--out", tmp_path / "out"), 7, runs / "rgb")


@pytest.mark.parametrize(
    "options",
    [
        ["--rgb-mask", "cloud"],
        ["--family", "auto"],
        ["--modality", "any", "--assess-modalities"],
        ["--category", "all"],
        ["--network-from", "run"],
        ["--calibration", "tuesday"],
        ["--family", "trd", "--hallucination", "f2f"],
    ],
)
def test_options_of_one_detector_are_refused(data: Path, recipes: dict[str, Recipe], options: list[str]) -> None:
    ended = command(cli, data, "--modality", "any", *options)
    assert ended.code == 2
    assert options[-2] in ended.err
    assert recipes == {}


def test_family_trd_hallucinates_for_one_sensor_alone(data: Path, recipes: dict[str, Recipe], tmp_path: Path) -> None:
    options = ("--family", "trd", "--variant", "mtfi-rd", "--rgb-weights", "seeded")
    ended = command(cli, data, "--modality", "any", *options, "--out", tmp_path / "runs")
    assert ended.code == 0, ended.err
    variants = {name: recipe.to_json()["detector"]["variant"] for name, recipe in recipes.items()}
    assert variants == {"both": "rd", "rgb": "mtfi-rd", "xyz": "mtfi-rd"}
