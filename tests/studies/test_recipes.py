"""Test `studies.recipes`: the file of rows, seeds, reuse of figures, failed trainings, and the table."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from cmdiad_runtime.support.files import write_json
from cmdiad_train.cli.train import cli
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.evaluation import evaluate
from helpers import RecordingReporter
from studies import recipes as study_module
from studies.recipes import Recipe, RecipeStudy, markdown, read_recipes

FOLDER = Path(study_module.__file__).parent
ROWS = '[rows]\ncamera = "--family bank --modality rgb"\ncloud = "--family bank --modality xyz"\n'


def figures(recipe: Recipe, auroc: float) -> dict[str, Any]:
    metrics = {"image_auroc": auroc, "pixel_auroc": 0.9, "aupro_30": 0.8, "aupro_1": 0.3, "samples": 5, "good": 2}
    by_defect = {"image_auroc_by_defect": {"hole": auroc}}
    counts = {"rejected": recipe.seed, "missed": 2, "seconds": 9.0}
    return {"row": recipe.row, "seed": recipe.seed, "view": "part", **metrics, **by_defect, **counts}


def test_every_row_is_trained_with_every_seed(tmp_path: Path) -> None:
    (file := tmp_path / "rows.toml").write_text(ROWS)
    assert [recipe.name for recipe in read_recipes(file, (0, 7))] == ["camera-0", "cloud-0", "camera-7", "cloud-7"]
    (chosen,) = read_recipes(file, (3,), ("clo",))
    assert chosen == Recipe("cloud", ("--family", "bank", "--modality", "xyz"), 3)


@pytest.mark.parametrize("text", ["", "rows = 3", "[rows]\ncamera = 3"])
def test_file_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "rows.toml").write_text(text)
    with pytest.raises(ValueError, match=r"rows\.toml needs a table \[rows\]"):
        read_recipes(file, (0,))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.toml")), ids=lambda file: file.stem)
def test_rows_of_the_repository_are_recipes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmdiad_train.extractors.presets.Preset.installed", lambda _: Path("resnet18.safetensors"))
    for recipe in read_recipes(file, (5,)):
        options = cli.make_context("cmdiad-train", ["data", *recipe.options]).params
        made = family_of(options["family"]).recipe({**options, "seed": recipe.seed}, lambda: ())
        assert (made.modality, made.seed) == (options["modality"], 5)


def test_finished_trainings_are_reused_and_failures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "rows.toml").write_text(ROWS)
    table, study = read_recipes(file, (0, 1)), RecipeStudy(tmp_path, "gear", tmp_path)
    trained: list[str] = []

    def train(_: RecipeStudy, recipe: Recipe) -> None:
        trained.append(recipe.name)
        if recipe.name == "cloud-1":
            raise ValueError("no memory\nmore")
        (tmp_path / "figures").mkdir(exist_ok=True)
        asked = {"data": str(tmp_path), "category": "gear", "options": shlex.join(recipe.options)}
        write_json(tmp_path / "figures" / f"{recipe.name}.json", {**figures(recipe, 0.75), **asked})

    monkeypatch.setattr(RecipeStudy, "train", train)
    reporter = RecordingReporter()
    assert len(study.measure(table, reporter)) == 3
    assert reporter.lines[3] == "4 of 4: cloud-1, failed: ValueError: no memory"
    study.measure(table, reporter)
    assert trained == ["camera-0", "cloud-0", "camera-1", "cloud-1", "cloud-1"]
    assert (tmp_path / "recipes.md").read_text().count("\n") == 4
    study.measure([replace(table[0], options=("--family", "bank", "--modality", "xyz"))], reporter)
    assert trained[5:] == ["camera-0"]


def test_a_signal_ends_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(_: RecipeStudy, recipe: Recipe) -> None:
        trained.append(recipe.name)
        raise click.Abort

    monkeypatch.setattr(RecipeStudy, "train", train)
    recipes = [Recipe("camera", (), 0), Recipe("cloud", (), 0)]
    with pytest.raises(click.Abort):
        RecipeStudy(tmp_path, "gear", tmp_path / "out").measure(recipes, RecordingReporter())
    assert trained == ["camera-0"]


def test_a_training_inspects_the_test_split_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspected: list[str] = []
    original = evaluate.collect

    def collect(score: Any, preprocessing: Any, samples: Any, *rest: Any) -> Any:
        inspected.extend(files.name for files in samples)
        return original(score, preprocessing, samples, *rest)

    for module in ("fit.figures", "evaluation.evaluate"):
        monkeypatch.setattr(f"cmdiad_train.{module}.collect", collect)
    options = "--rgb-backbone test_resnet --rgb-stages 0,1 --rgb-grid 14 --size 56 --view sensor --coreset 0.1"
    recipe = Recipe("camera", tuple(options.split()), 0)
    (row,) = RecipeStudy(data, "gear", tmp_path / "study").measure([recipe], RecordingReporter())
    assert len(inspected) == len({*inspected}) == row["samples"] == len(row["scores"])


def test_table_has_means_and_ranges_over_the_seeds() -> None:
    rows = [figures(Recipe("camera", (), seed), auroc) for seed, auroc in ((0, 0.5), (1, 1.0))]
    assert markdown(rows).splitlines()[2] == (
        "| camera | part | 2 | 0.750 (0.500–1.000) | 0.900 | 0.800 | 0.300 | 0.75 | 0.5 (0–1) of 2 | 2.0 of 3 | 9 |"
    )
