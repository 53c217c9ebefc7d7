"""Options of `--family ast`: the recipe, the view and the preprocessing that they lead to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.errors import RunError
from cmdiad_train.cli.train import cli
from cmdiad_train.detectors.ast.family import check_weights
from cmdiad_train.detectors.ast.preprocessing import make_preprocessing, preferred_view
from cmdiad_train.detectors.ast.recipe_options import recipe_from, remarks
from cmdiad_train.detectors.registry import CHOSEN_FROM
from cmdiad_train.extractors.store import FOLDER
from cmdiad_train.recipe import PUBLISHED_AST, AstRecipe, Recipe, RgbExtractor, ast_part
from helpers import tiny_ast_recipe


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no weights are stored."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / FOLDER).mkdir(parents=True)


def options(*arguments: object) -> dict[str, Any]:
    return dict(cli.make_context("cmdiad-train", ["DATA", "--family", "ast", *map(str, arguments)]).params)


def recipe(*arguments: object) -> Recipe:
    return recipe_from(options(*arguments), lambda: ())


def test_the_defaults_need_no_download() -> None:
    chosen = recipe()
    assert (chosen.modality, chosen.size, chosen.verdict, chosen.view) == ("rgb", 320, "map", "auto")
    assert chosen.detector == AstRecipe()
    (line,) = remarks(options(), chosen)
    assert line.startswith("Extractor: small (resnet10t, shipped with cmdiad)")
    assert remarks(options("--modality", "xyz"), recipe("--modality", "xyz")) == []


def test_faithful_is_as_published() -> None:
    chosen = recipe("--mode", "faithful", "--modality", "both")
    assert (chosen.size, chosen.view, chosen.verdict) == (768, "sensor", "image")
    assert chosen.detector == PUBLISHED_AST
    part = ast_part(chosen)
    assert (part.epochs, part.batch, part.learning_rate, part.patience) == (72, 8, 2e-4, 0)
    settings = make_preprocessing(chosen, "rgb", "both")
    assert (settings.xyz_feed, settings.rgb_filter) == ("centred-depth", "bilinear")
    assert preferred_view(chosen)[0] == "sensor"


def test_values_of_options_enter_the_recipe() -> None:
    sizes = ("--cell", 8, "--student-width", 64, "--epochs", 3, "--batch", 2)
    chosen = recipe(*sizes, "--reduction", "max", "--rgb-backbone", "resnet18")
    part = ast_part(chosen)
    assert (part.cell, part.student_width, part.reduction, part.epochs, part.batch) == (8, 64, "max", 3, 2)
    assert part.extractor == RgbExtractor("resnet18", (1, 2), None, "seeded")
    assert "random weights" in remarks(options("--rgb-backbone", "resnet18"), chosen)[0]
    assert Recipe.from_json(chosen.to_json()) == chosen


@pytest.mark.parametrize(("modality", "view"), [("rgb", "part"), ("xyz", "top"), ("both", "top")])
def test_the_view_follows_the_modality(modality: str, view: str) -> None:
    assert preferred_view(recipe("--modality", modality)) == (view, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modality", "both", "--view", "each"), "recipe view: found 'each'"),
        (("--size", 328), "recipe size: found 328.*multiple of 16"),
        (("--modality", "xyz", "--geometry", "depth"), "recipe cell: found 16.*32 with --geometry depth"),
        (("--modality", "xyz", "--geometry", "depth", "--cell", 32, "--view", "top"), "recipe view: found 'top'"),
        (("--modality", "xyz", "--geometry", "pseudo-normals"), "recipe geometry: found 'pseudo-normals'"),
    ],
)
def test_contradictions_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(RunError, match=message):
        recipe(*arguments)


def test_the_size_of_the_networks_is_known_before_the_training() -> None:
    small, wide = (check_weights(tiny_ast_recipe("rgb", student_width=width)) for width in (16, 64))
    assert wide > small > 0
    without = tiny_ast_recipe("xyz")
    absent = replace(ast_part(without), extractor=RgbExtractor(weights="/nowhere.safetensors"))
    missing = replace(without, detector=absent)
    assert check_weights(missing) == check_weights(without)


def test_a_comparator_is_no_candidate_of_auto() -> None:
    assert CHOSEN_FROM == ("bank", "trd")
