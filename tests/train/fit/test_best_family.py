"""`--family auto` keeps the family that separates changed copies of good samples best, and resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.sample import Sample
from cmdiad_train.cli import train
from cmdiad_train.detectors import registry
from cmdiad_train.fit import best_family
from cmdiad_train.fit.best_family import (
    CHOICE,
    Evidence,
    choose_family,
    describe,
    evidence_of,
    fit_best_family,
    held_out_samples,
)
from cmdiad_train.fit.tamper import BUMP_HEIGHT, tamper
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.run import load_run
from conftest import Trained
from families.pixel_gaussian import FAMILY, PixelGaussianRecipe
from helpers import RecordingReporter, command, tiny_recipe
from reporters import InterruptAt
from runs import assert_whole, hashes


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registry.register(FAMILY)
    yield
    registry.unregister(FAMILY.name)


@pytest.fixture
def recipes() -> dict[str, Recipe]:
    gaussian = Recipe(PixelGaussianRecipe(14), size=112, view="sensor")
    return {"bank": tiny_recipe("rgb"), FAMILY.name: gaussian}


def evidence(**separations: float) -> dict[str, Evidence]:
    return {name: Evidence(separation, 0.5, 9) for name, separation in separations.items()}


def test_the_better_family_is_chosen_and_the_first_of_equal_ones() -> None:
    assert choose_family(evidence(bank=0.80, trd=0.90)) == "trd"
    assert choose_family(evidence(bank=0.90, trd=0.80)) == "bank"
    assert choose_family(evidence(bank=0.900, trd=0.905)) == "bank"
    assert "bank 80.0%, trd 90.0%" in describe(evidence(bank=0.8, trd=0.9))


def test_the_kept_run_is_that_of_the_family_alone(data: Path, tmp_path: Path, recipes: dict[str, Recipe]) -> None:
    reporter = RecordingReporter()
    record = fit_best_family(data, "gear", recipes, tmp_path / "run", reporter)
    choice = json.loads((tmp_path / "run" / CHOICE).read_text())
    separations = {name: figures["separation"] for name, figures in choice["evidence"].items()}
    assert set(separations) == set(recipes)
    assert all(0 < separation <= 1 for separation in separations.values())
    assert choice["family"] == record.recipe.family == choose_family(evidence(**separations))
    assert any(line.startswith(f"Family: {choice['family']}. ") for line in reporter.lines)
    assert not (tmp_path / "run-families").exists()
    assert load_run(tmp_path / "run").record == record
    best_family.fit(data, "gear", recipes[choice["family"]], tmp_path / "alone")
    alone, kept = hashes(tmp_path / "alone"), hashes(tmp_path / "run")
    assert {name: kept[name] for name in alone} == alone
    own = tmp_path / "run-families" / "notes.txt"
    own.parent.mkdir()
    own.write_text("not of cmdiad")
    assert fit_best_family(data, "gear", recipes, tmp_path / "run") == record
    assert own.exists()
    with pytest.raises(OutputError, match="another recipe"):
        fit_best_family(data, "gear", {n: replace(r, seed=1) for n, r in recipes.items()}, tmp_path / "run")


def test_every_family_is_compared_on_the_same_good_samples(data: Path, trained: Trained) -> None:
    """A bank has scores of its training samples too, whose poses may be rare; other families have none."""
    run = load_run(trained("rgb"))
    files = held_out_samples(data, "gear", run.record.asked)
    assert len(files) < len(run.calibration.held_out_scores)
    odd = replace(run.calibration, held_out_scores=(1e6,) * run.calibration.samples)
    assert evidence_of(replace(run, calibration=odd), files) == evidence_of(run, files)


@pytest.mark.parametrize(("step", "done"), [("calibrate threshold", 1), ("compare families: bank", 1)])
def test_an_interrupted_choice_resumes(
    data: Path, tmp_path: Path, recipes: dict[str, Recipe], step: str, done: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit_best_family(data, "gear", recipes, tmp_path / "run", InterruptAt(step, done))
    assert not (tmp_path / "run").exists()
    record = fit_best_family(data, "gear", recipes, tmp_path / "run")
    assert record.status == "complete"
    assert_whole(tmp_path / "run")


def test_an_interrupted_move_resumes(
    data: Path, tmp_path: Path, recipes: dict[str, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path.replace

    def fail_at_last(path: Path, target: Path) -> Path:
        if target == tmp_path / "run" / "run.json":
            raise OSError("interrupted")
        return moved(path, target)

    monkeypatch.setattr(Path, "replace", fail_at_last)
    with pytest.raises(OSError, match="interrupted"):
        fit_best_family(data, "gear", recipes, tmp_path / "run")
    monkeypatch.undo()
    fit_best_family(data, "gear", recipes, tmp_path / "run")
    assert load_run(tmp_path / "run").record.status == "complete"
    assert not (tmp_path / "run-families").exists()


def test_a_damaged_choice_is_reported(data: Path, tmp_path: Path, recipes: dict[str, Recipe]) -> None:
    (tmp_path / "run-families").mkdir()
    (tmp_path / "run-families" / CHOICE).write_text('{"family": "crystal-ball"}')
    with pytest.raises(RunError, match="crystal-ball"):
        fit_best_family(data, "gear", recipes, tmp_path / "run")


def test_a_folder_of_something_else_is_refused_before_the_work(
    data: Path, tmp_path: Path, recipes: dict[str, Recipe]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("hello")
    with pytest.raises(OutputError, match=r"letter\.txt"):
        fit_best_family(data, "gear", recipes, tmp_path / "run")
    assert not (tmp_path / "run-families").exists()


def test_only_options_of_both_families_are_taken(data: Path, tmp_path: Path) -> None:
    for option, value in (("--coreset", "0.1"), ("--variant", "rd")):
        refused = command(train.cli, data, "--family", "auto", option, value, "--out", tmp_path / "run")
        assert refused.code == 2
        assert f"{option} is an option of the family" in refused.err
        assert f"Leave out {option} or --family auto." in refused.err
    assert not (tmp_path / "run").exists()


def test_weaker_changes_are_smaller() -> None:
    rgb = np.full((40, 40, 3), 100, np.uint8)
    xyz = np.stack([*np.mgrid[:40, :40] * 0.001, np.full((40, 40), 0.5)], axis=2).astype(np.float32)
    xyz[10:30, 10:30, 2] -= 0.02
    sample = Sample("part", rgb=rgb, xyz=xyz)
    settings = Preprocessing("both", size=32, xyz_feed="normals")
    changes = [tamper(sample, settings, strength=strength) for strength in (0.0, 0.2, 1.0)]
    assert np.array_equal(changes[0].rgb, rgb)  # type: ignore[arg-type]
    assert np.array_equal(changes[0].xyz, xyz)  # type: ignore[arg-type]
    levels = [int(np.abs(c.rgb.astype(int) - 100).max()) for c in changes]  # type: ignore[union-attr]
    assert levels == [0, 31, 155]
    heights = [float(np.linalg.norm(c.xyz - xyz, axis=2).max()) for c in changes]  # type: ignore[operator]
    assert heights == pytest.approx([0, 0.2 * BUMP_HEIGHT, BUMP_HEIGHT], abs=1e-6)
