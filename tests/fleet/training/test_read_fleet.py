"""The fleet file: every mistake is listed at once, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmdiad_fleet.cli.fleet import cli
from cmdiad_fleet.training.fleet_file.mistakes import FleetFileError
from cmdiad_fleet.training.fleet_file.read import read_fleet
from cmdiad_fleet.training.fleet_file.sections import Sweep
from cmdiad_fleet.training.resolve import resolve
from cmdiad_fleet.training.sweep import points_of
from fleet_fleets import CAMERA, fleet_of, small_categories, write_fleet
from helpers import command

NAMES = ("clip", "gear")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_categories(tmp_path_factory.mktemp("parts"), NAMES)


def mistakes_of(folder: Path, data: Path, text: str) -> list[str]:
    with pytest.raises(FleetFileError) as error:
        fleet_of(folder, data, text)
    return [str(mistake) for mistake in error.value.mistakes]


def test_a_fleet_has_a_detector_for_each_category_and_recipe(parts: Path, tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, parts, CAMERA + '[recipe.second]\ntrain = {size = 64, view = "sensor"}\n')
    assert [d.name for d in fleet.detectors] == ["clip-camera", "clip-second", "gear-camera", "gear-second"]
    assert fleet.general.out == tmp_path / "out"
    assert fleet.export is None
    assert fleet.sweep is None


@pytest.mark.failure_mode("A fleet file with mistakes")
def test_all_mistakes_are_listed_with_their_lines(parts: Path, tmp_path: Path) -> None:
    text = """
categories = ["gear", "bolt"]
[recipe.camera]
cpus = 0
gpus = 1.5
train = {modality = "rbg", coreset = "x", out = "y", foreground = "yes", seed = [1], hallucinatoin = "f2f", mask = "m"}
[export]
precision = "fp61"
budget-ms = 4
target = "tensorrt"
[sweep]
recipe = "camer"
values = {size = [64, "x"]}
[extra]
"""
    listed = mistakes_of(tmp_path, parts, text)
    keys = [line.split(": found")[0] for line in listed]
    assert keys == [
        "line 6: data.categories",
        "line 8: recipe.camera.cpus",
        "line 9: recipe.camera.gpus",
        *(
            f"line 10: recipe.camera.train.{name}"
            for name in ("modality", "coreset", "out", "foreground", "seed", "hallucinatoin", "mask")
        ),
        "line 12: export.precision",
        "line 13: export.budget-ms",
        "line 14: export.target",
        "line 16: sweep.recipe",
        "line 17: sweep.values.size",
        "line 18: extra",
    ]
    assert "'rbg' is not one of 'rgb', 'xyz', 'both'" in listed[3]
    assert "Write hallucination instead" in listed[8]
    assert "Write camera instead" in listed[13]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[recipe.a]\ntrain = {family = "trd", coreset = 0.2}', "--coreset is an option of the family bank"),
        ('[recipe.a]\ntrain = {paper = "rgb", mode = "default"}', "--paper rgb sets --mode faithful"),
        (CAMERA + '[sweep]\nrecipe = "camera"\nvalues = {family = ["bank", "trd"], coreset = [0.2]}', "family = trd"),
        (CAMERA + '[sweep]\nrecipe = "camera"\nvalues = {seed = []}', "a list of values for each option"),
        (CAMERA + '[sweep]\nrecipe = "camera"\nvalues = {size = 64}', "a list in square brackets"),
        ("[recipe.a]\ntrain = {assess-modalities = true}", "Expected options that train a detector"),
        ("[recipe.a]\ntrain = {rgb-grid = 14, rgb_grid = 28}", "rgb_grid: found the same option as rgb-grid"),
        (CAMERA + '[export]\nengine = "fp32"\nprecision = "fp16"', "precision: found the same option as engine"),
        (
            'recipes = ["b"]\n[recipe.a]\n[recipe.b]\n[sweep]\nrecipe = "a"\nvalues = {seed = [1, 2]}',
            "sweep.recipe: found 'a', which no section [[data]] uses",
        ),
        ('[recipe."a/b"]', "letters, digits, hyphens"),
        ("[[recipe]]", "no recipe"),
    ],
)
def test_options_that_do_not_go_together_are_mistakes(parts: Path, tmp_path: Path, text: str, words: str) -> None:
    assert any(words in line for line in mistakes_of(tmp_path, parts, text))


def test_mistakes_about_data_sets_are_listed(parts: Path, tmp_path: Path) -> None:
    again = f'[[data]]\nfolder = "{parts}"\n'
    text = f'{again}categories = ["gear", "nothing"]\nrecipes = ["camra"]\n{again}prefix = "/"\n{CAMERA}'
    assert any("data.prefix: found '/'" in line for line in mistakes_of(tmp_path, parts, text))
    listed = mistakes_of(tmp_path, parts, text.replace('"/"', '"a-"'))
    assert any("Expected category nothing. Correct the names, or remove categories" in line for line in listed)
    assert any("found 'camra'. Expected names of camera. Write camera instead." in line for line in listed)
    listed = mistakes_of(tmp_path, parts, again + CAMERA)
    assert any("found 2 detectors gear-camera" in line and "set prefix" in line.lower() for line in listed)


def test_the_output_does_not_become_a_category(parts: Path, tmp_path: Path) -> None:
    file = write_fleet(tmp_path, parts)
    file.write_text(file.read_text().replace('out = "out"', f'out = "{parts}/out"'))
    with pytest.raises(FleetFileError, match="a folder in the data set"):
        read_fleet(file)


def test_options_become_the_arguments_that_a_user_types(parts: Path) -> None:
    options = {"foreground": False, "ignore-check": ["colour", "sharpness"], "rgb_grid": 14, "verdict": "image"}
    resolved = resolve(parts, options)
    assert resolved.arguments == (
        "--no-foreground", "--ignore-check=colour", "--ignore-check=sharpness", "--rgb-grid=14", "--verdict=image",
    )  # fmt: skip
    assert resolved.recipes["bank"]["foreground"] is False
    assert (None, "test", ("rgb",), "rgb") in resolved.sources


def test_a_joint_training_reads_the_other_categories(parts: Path) -> None:
    for category in NAMES:
        (parts / category / "train/good/xyz").mkdir(exist_ok=True)
    resolved = resolve(parts, {"hallucination": "f2f", "distil-on": "all"})
    assert ("clip", "train", ("rgb", "xyz"), "rgb") in resolved.sources
    assert (None, "validation", ("rgb",), "rgb") in resolved.sources


def test_a_random_search_draws_different_points_of_the_grid() -> None:
    values = {"size": (64, 80, 96), "seed": (1, 2, 3)}
    grid = points_of(Sweep(recipe="a", values=values))
    assert len(grid) == 9
    assert grid[1] == {"size": 64, "seed": 2}
    drawn = points_of(Sweep(recipe="a", values=values, search="random", samples=5))
    assert len({tuple(point.values()) for point in drawn}) == 5
    assert all(point in grid for point in drawn)
    assert drawn == points_of(Sweep(recipe="a", values=values, search="random", samples=5))
    assert drawn != points_of(Sweep(recipe="a", values=values, search="random", samples=5, seed=1))


@pytest.mark.parametrize("samples", [1, 6, 9, 100])
def test_more_samples_of_a_random_search_begin_with_the_same_trials(samples: int) -> None:
    values = {"size": (64, 80, 96), "seed": (1, 2, 3)}
    few = points_of(Sweep(recipe="a", values=values, search="random", samples=5))
    drawn = points_of(Sweep(recipe="a", values=values, search="random", samples=samples))
    assert len(drawn) == min(samples, 9)
    assert drawn[:5] == few[:samples]


def test_check_lists_mistakes_or_detectors_and_trains_nothing(parts: Path, tmp_path: Path) -> None:
    file = write_fleet(tmp_path, parts)
    ended = command(cli, "train", file, "--check")
    assert (ended.code, ended.out) == (0, "clip-camera\ngear-camera\n")
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.toml"]
    file.write_text("[fleet]\n")
    ended = command(cli, "train", file)
    assert ended.code == 10
    assert "fleet.out: found no such key" in ended.err
    ended = command(cli, "train", tmp_path / "missing.toml")
    assert ended.code == 10
    assert "missing.toml: found no readable file" in ended.err
    assert command(cli, "train", file, "--jobs", "2").code == 2
