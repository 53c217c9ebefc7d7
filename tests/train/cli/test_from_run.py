"""`cmdiad-train --from-run`: parts that people judged at the station are trained on, held out and tested."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_train.cli.train import cli
from cmdiad_train.fit.envelope import EnvelopeOptions
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.fit.from_run import read_earlier_run
from cmdiad_train.recipe import Distillation
from cmdiad_train.runs.record import read_record, write_record
from cmdiad_train.runs.run import load_calibration
from cmdiad_train.runs.tensors import load_tensors
from helpers import assert_refused, command, read_image, sample_files, tiny_recipe, tiny_trd_recipe, write_image

GOOD = 6
"""Parts that were judged good, the fifth of which is held out."""


@pytest.fixture(scope="module")
def candidate(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A candidate as the station writes it, with good and bad parts that are like the training samples."""
    folder = tmp_path_factory.mktemp("candidates") / "gear-2"
    images = [read_image(path) for path in sample_files(data, "train", "good", "rgb")]
    for judgement, first, count in (("good", 31, GOOD), ("bad", 61, 2)):
        place = folder / "parts" / judgement / "rgb"
        place.mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(images[number].astype(int) + 2, 0, 255).astype(np.uint8)
            if judgement == "bad":
                pixels[20:60, 20:60] = 255
            write_image(place / f"{first + number:010d}.png", pixels)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "gear"
    fit(data, None, tiny_recipe(), run, options=FitOptions(envelope=EnvelopeOptions(0.01, ("colour",))))
    return run


@pytest.fixture(scope="module")
def again(run: Path, candidate: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache = tmp_path_factory.mktemp("features")
    return command(cli, "--from-run", run, "--candidate", candidate, "--cache-dir", cache)


def test_judged_parts_are_trained_on_and_held_out(run: Path, again: Any) -> None:
    assert again.code == 0, again.error
    before, after = read_record(run), read_record(run.with_name("gear-gear-2"))
    good = [f"gear-2/good/{number:010d}" for number in range(31, 31 + GOOD)]
    assert after.data.train == (*before.data.train, *good[:4], good[5])
    assert after.data.held_out == (*before.data.held_out, good[4])
    assert (after.data.folder, after.recipe) == (before.data.folder, before.recipe)
    scores = [len(load_calibration(folder).by_session[0].scores) for folder in (run, run.with_name("gear-gear-2"))]
    assert scores[1] == scores[0] + GOOD, "samples of the bank are scored without their own rows"


def test_bank_has_rows_of_the_judged_parts(run: Path, again: Any) -> None:
    rows = [
        len(next(iter(load_tensors(folder / "banks.safetensors").values())))
        for folder in (run, run.with_name("gear-gear-2"))
    ]
    assert rows[1] > rows[0]


def test_judged_defects_are_tested(run: Path, again: Any) -> None:
    before, after = read_record(run).metrics, read_record(run.with_name("gear-gear-2")).metrics
    assert before is not None
    assert after is not None
    assert after["samples"] == before["samples"] + 2
    assert "bad" in after["image_auroc_by_defect"]


def test_envelope_of_the_run_is_kept(run: Path, again: Any) -> None:
    envelope = read_record(run.with_name("gear-gear-2")).envelope
    assert envelope is not None
    assert (envelope.false_alarm_rate, envelope.off) == (0.01, ("colour",))


def test_same_command_again_keeps_the_finished_run(run: Path, candidate: Path, again: Any) -> None:
    banks = run.with_name("gear-gear-2") / "banks.safetensors"
    before = banks.stat().st_mtime_ns
    assert command(cli, "--from-run", run, "--candidate", candidate).code == 0
    assert banks.stat().st_mtime_ns == before


def test_command_for_another_session_names_a_new_run(run: Path, again: Any) -> None:
    assert f"--out {run.with_name('gear-gear-2-2')} --calibration DIR" in again.err


def test_options_of_the_recipe_are_refused(run: Path, candidate: Path) -> None:
    ended = command(cli, "--from-run", run, "--candidate", candidate, "--size", 64)
    assert ended.code == 2
    assert "--size is that of the run" in ended.err


@pytest.mark.parametrize("arguments", [("--from-run",), ("--candidate",), ()])
def test_incomplete_command_is_refused(run: Path, arguments: tuple[str, ...]) -> None:
    assert command(cli, *(word for name in arguments for word in (name, run))).code == 2


def test_folder_without_judged_parts_is_refused(run: Path, tmp_path: Path) -> None:
    ended = command(cli, "--from-run", run, "--candidate", tmp_path)
    assert_refused(ended, 7, "no parts that were judged good", "cmdiad-line candidate make")


def test_data_set_that_has_moved_is_named(data: Path, candidate: Path, tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.symlink_to(data)
    run = tmp_path / "gear"
    fit(data, None, tiny_recipe(), run)
    record = (run / "run.json").read_text(encoding="utf-8")
    (run / "run.json").write_text(record.replace(str(data), str(tmp_path / "gone")), encoding="utf-8")
    ended = command(cli, "--from-run", run, "--candidate", candidate)
    assert_refused(ended, 7, "no such folder", "cmdiad-train DATA --from-run")
    assert read_earlier_run(run, place).data == place


def test_joint_categories_that_are_not_next_to_the_folder_of_a_link_are_named(
    data: Path, run: Path, candidate: Path, tmp_path: Path
) -> None:
    """The category was trained through a link of another name, but the record has its real folder.

    At first no folder next to the real one has the name of a category of the run. Then other folders have these names.
    """
    links, real, joint = tmp_path / "links", tmp_path / "real", tmp_path / "joint"
    for place in (links / "nut", real / "gear"):
        shutil.copytree(data / "gear", place)
    (links / "parts").symlink_to(real / "gear")
    joint.mkdir()
    record = read_record(run)
    recipe = tiny_recipe("rgb", "f2f", distillation=Distillation(categories=("nut", "parts")))
    trained_on = replace(record.data, folder=str(real / "gear"), category="parts")
    write_record(joint, replace(record, recipe=recipe, data=trained_on))
    words = ("no data set with the categories nut, parts", "Name their present place: cmdiad-train DATA --from-run")
    assert_refused(command(cli, "--from-run", joint, "--candidate", candidate), 7, real, *words)
    for name in ("nut", "parts"):
        shutil.copytree(data / "gear", real / name)
    assert_refused(command(cli, "--from-run", joint, "--candidate", candidate), 7, real, *words)
    earlier = read_earlier_run(joint, links)
    assert (earlier.data, earlier.category) == (links, "parts")
    write_record(joint, replace(record, recipe=recipe, data=replace(trained_on, folder=str(real / "parts"))))
    assert read_earlier_run(joint).data == real
    shutil.rmtree(real / "nut")
    assert_refused(command(cli, "--from-run", joint, "--candidate", candidate), 7, real, *words)


def test_reverse_distillation_is_fitted_again(fitted: Any, candidate: Path) -> None:
    """It has no bank to extend, so its networks are trained with all parts."""
    earlier = read_earlier_run(fitted("rd", "rgb"))
    assert earlier.network_from is None
    assert earlier.recipe.family == tiny_trd_recipe("rd", "rgb").family


def test_network_of_a_run_is_taken_over(trained: Any) -> None:
    run = trained("rgb", "f2f")
    assert read_earlier_run(run).network_from == run
