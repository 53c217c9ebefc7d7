"""`--assess-modalities` compares sensors without the test split, by detectors that never saw a sample, and resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_train.assessment import assess as module
from cmdiad_train.assessment.assess import PLOT, REQUEST, RESULT, SCORES, SHEET, WORK, assess
from cmdiad_train.assessment.candidates import recipes_to_compare
from cmdiad_train.assessment.defects import DEFECTS
from cmdiad_train.assessment.folds import folds_of
from cmdiad_train.cli import train
from cmdiad_train.datasets import Category, open_category
from cmdiad_train.detectors.family import Family, FitContext, Fitted
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.recipe import Recipe, bank_part
from helpers import command, tiny_recipe
from runs import assert_whole

FOLDS = 3


@dataclass(frozen=True)
class Assessed:
    """An assessment of a data set that has no test split.

    Attributes:
        category: The data set.
        folder: Folder of the assessment.
        seen: Number of the fold, and the samples that set banks and thresholds, of each fit.
    """

    category: Category
    folder: Path
    seen: list[tuple[int, set[str]]]


def recipes() -> dict[str, Recipe]:
    return {
        "camera": tiny_recipe("rgb"),
        "3D": tiny_recipe("xyz"),
        "3D with F2F": tiny_recipe("xyz", "f2f"),
        "both": tiny_recipe("both"),
    }


@pytest.fixture(scope="module")
def assessed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assessed]:
    folder, copy = tmp_path_factory.mktemp("assessed"), tmp_path_factory.mktemp("good-only") / "data"
    shutil.copytree(data, copy)
    shutil.rmtree(copy / "gear" / "test")
    seen: list[tuple[int, set[str]]] = []

    def recording(name: str) -> Family:
        family = family_of(name)

        def fit(context: FitContext) -> Fitted:
            number = int(context.run.name.rsplit("-", 1)[1])
            seen.append((number, {files.name for files in (*context.train, *context.held_out)}))
            return family.fit(context)

        return replace(family, fit=fit)

    category = open_category(copy, "gear")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "family_of", recording)
        assess(category, recipes(), folder, folds=FOLDS)
        yield Assessed(category, folder, seen)


def test_no_test_split_is_needed_and_every_file_is_whole(assessed: Assessed) -> None:
    assert_whole(assessed.folder)
    assert not (assessed.folder / WORK).exists()
    assert (assessed.folder / PLOT).stat().st_size > 0 and (assessed.folder / SHEET).stat().st_size > 0
    result = json.loads((assessed.folder / RESULT).read_text(encoding="utf-8"))
    assert [row["name"] for row in result["detectors"]] == list(recipes())
    assert result["good"] == result["tampered"] == 9
    for row in result["detectors"]:
        assert row["detected"].keys() == DEFECTS.keys()
        assert row["auroc_interval"][0] <= row["auroc"] <= row["auroc_interval"][1]


def test_no_detector_saw_a_sample_that_it_scored(assessed: Assessed) -> None:
    names = sorted(name for _, samples in assessed.seen for name in samples)
    folds = folds_of(list(dict.fromkeys(names)), FOLDS, seed=tiny_recipe().seed)
    assert len(assessed.seen) == FOLDS * len(recipes())
    for number, samples in assessed.seen:
        scored = json.loads((assessed.folder / SCORES / f"{number}.json").read_text(encoding="utf-8"))
        assert sorted(scored) == sorted(folds[number - 1])
        assert samples.isdisjoint(scored) and samples | scored.keys() == {*names}


def test_a_sensor_does_not_react_to_a_defect_that_only_the_other_one_measures(assessed: Assessed) -> None:
    for number in range(1, FOLDS + 1):
        for copies in json.loads((assessed.folder / SCORES / f"{number}.json").read_text(encoding="utf-8")).values():
            assert copies["deformation"]["camera"] == copies["good"]["camera"]
            assert copies["stain"]["3D with F2F"] == copies["good"]["3D with F2F"]
            assert copies["deformation"]["3D with F2F"] != copies["good"]["3D with F2F"]


def test_an_interrupted_assessment_continues_after_its_last_fold(assessed: Assessed) -> None:
    result, fits = (assessed.folder / RESULT).read_bytes(), len(assessed.seen)
    assess(assessed.category, recipes(), assessed.folder, folds=FOLDS)
    assert len(assessed.seen) == fits
    (assessed.folder / SCORES / "2.json").unlink()
    (assessed.folder / RESULT).unlink()
    assess(assessed.category, recipes(), assessed.folder, folds=FOLDS)
    assert [number for number, _ in assessed.seen[fits:]] == [2] * len(recipes())
    assert (assessed.folder / RESULT).read_bytes() == result


def test_another_assessment_or_folder_is_refused(assessed: Assessed, tmp_path: Path) -> None:
    request = (assessed.folder / REQUEST).read_bytes()
    with pytest.raises(OutputError, match="other samples or options"):
        assess(assessed.category, {"both": tiny_recipe("both")}, assessed.folder, folds=FOLDS)
    assert (assessed.folder / REQUEST).read_bytes() == request
    intrinsics = assessed.category.folder / "train/good/xyz/intrinsics.json"
    intrinsics.write_text("{}")
    with pytest.raises(OutputError, match="other samples or options"):
        assess(assessed.category, recipes(), assessed.folder, folds=FOLDS)
    intrinsics.unlink()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="no assessment"):
        assess(assessed.category, recipes(), tmp_path, folds=FOLDS)
    with pytest.raises(RunError, match="9 good samples"):
        assess(assessed.category, recipes(), tmp_path / "new", folds=2)
    assert not (tmp_path / "new").exists()


def test_folds_do_not_follow_a_repeated_series_of_poses() -> None:
    names = [f"{number:03d}" for number in range(400)]
    folds = folds_of(names, 2, seed=0)
    assert sorted(name for fold in folds for name in fold) == names
    for fold in folds:
        assert {int(name) % 8 for name in fold} == {*range(8)}
    assert folds == folds_of(names, 2, seed=0) != folds_of(names, 2, seed=1)


def test_rows_use_the_options_of_the_user() -> None:
    options = {"mode": "default", "coreset": 0.5, "hallucination": "f2i", "extractor": None}
    context = train.cli.make_context("cmdiad-train", ["DATA"])
    rows = recipes_to_compare(family_of("bank"), {**context.params, **options}, list)
    assert list(rows) == ["camera", "camera with F2I", "3D", "3D with F2I", "both"]
    assert [recipe.modality for recipe in rows.values()] == ["rgb", "rgb", "xyz", "xyz", "both"]
    assert [bank_part(recipe).hallucination for recipe in rows.values()] == ["none", "f2i", "none", "f2i", "none"]
    assert {bank_part(recipe).coreset for recipe in rows.values()} == {0.5}
    enhanced = {"mode": "default", "main_bank": "enhanced", "hallucination_context": 3, "extractor": None}
    banks = recipes_to_compare(family_of("bank"), {**context.params, **enhanced}, list)
    assert [bank_part(recipe).main_bank for recipe in banks.values()] == ["plain", "enhanced"] * 2 + ["plain"]
    assert [bank_part(recipe).distillation.context for recipe in banks.values()] == [1, 3, 1, 3, 1]
    trd = recipes_to_compare(family_of("trd"), context.params, list)
    assert list(trd) == ["camera", "camera with MTFI-TRD", "3D", "3D with MTFI-TRD", "both"]


@pytest.mark.parametrize("option", [("--modality", "rgb"), ("--parts", "2"), ("--family", "auto")])
def test_contradicting_options_are_refused(data: Path, option: tuple[str, str]) -> None:
    ended = command(train.cli, data, "--assess-modalities", *option)
    assert ended.code == 2
    assert "--assess-modalities" in ended.err


def test_both_sensors_are_needed(own_data: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_data / "gear" / "train" / "good" / "xyz")
    ended = command(train.cli, own_data, "--assess-modalities", "--out", tmp_path / "out")
    assert ended.code == 7
    assert "xyz" in ended.error
    assert not (tmp_path / "out").exists()
