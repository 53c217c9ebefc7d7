"""Options of `--family m3dm`: the recipe, the view and the size that they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmdiad_train.cli.train import cli
from cmdiad_train.detectors.m3dm.family import check_weights, run_name
from cmdiad_train.detectors.m3dm.preprocessing import preferred_view
from cmdiad_train.detectors.m3dm.recipe_options import recipe_from, remarks
from cmdiad_train.detectors.registry import CHOSEN_FROM
from cmdiad_train.extractors.store import FOLDER
from cmdiad_train.recipe import PUBLISHED_M3DM, M3dmRecipe, Recipe, m3dm_part


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no weights are stored."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / FOLDER).mkdir(parents=True)


def options(*arguments: object) -> dict[str, Any]:
    return dict(cli.make_context("cmdiad-train", ["DATA", "--family", "m3dm", *map(str, arguments)]).params)


def recipe(*arguments: object) -> Recipe:
    return recipe_from(options(*arguments), lambda: ())


def test_the_defaults_need_no_download() -> None:
    chosen = recipe("--modality", "both")
    assert (chosen.size, chosen.verdict, chosen.view) == (320, "map", "auto")
    assert chosen.detector == M3dmRecipe(series="leave-out")
    (line,) = remarks(options("--modality", "both"), chosen)
    assert line.startswith("Extractor: small (resnet10t, shipped with cmdiad)")
    assert "m3dm" not in CHOSEN_FROM


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
def test_half_of_the_network_is_labelled_as_unpublished(modality: str) -> None:
    *_, line = remarks(options("--modality", modality), recipe("--modality", modality))
    assert "one half of the fusion network" in line and "not published" in line


def test_faithful_is_as_published_with_three_banks_and_with_two() -> None:
    chosen = recipe("--mode", "faithful", "--modality", "both")
    assert (chosen.size, chosen.view, chosen.verdict) == (224, "sensor", "image")
    assert chosen.detector == PUBLISHED_M3DM
    assert PUBLISHED_M3DM.points is not None and PUBLISHED_M3DM.points.taps == (3, 7, 11)
    assert preferred_view(chosen)[0] == "sensor"
    two = recipe("--mode", "faithful", "--modality", "both", "--feature-fusion", "none")
    assert (m3dm_part(chosen).image_score, m3dm_part(two).image_score) == ("reweighted", "thousandth")
    assert (run_name(chosen), run_name(two)) == ("m3dm", "m3dm-two-banks")
    missing = " ".join(remarks(options("--mode", "faithful", "--modality", "both"), chosen))
    assert "--rgb-mask cloud" in missing and "--xyz-weights FILE" in missing and "DINO" not in missing


def test_values_of_options_enter_the_recipe() -> None:
    given = ("--temperature", 0.5, "--epochs", 3, "--batch", 2, "--learning-rate", 0.1, "--patience", 0)
    chosen = recipe("--modality", "both", *given, "--coreset", 0.2, "--components", 0, "--rgb-grid", 20)
    part = m3dm_part(chosen)
    assert (part.temperature, part.epochs, part.batch, part.learning_rate, part.patience) == (0.5, 3, 2, 0.1, 0)
    assert (part.coreset, part.components, part.rgb.grid, part.distillation) == (
        0.2,
        None,
        20,
        M3dmRecipe().distillation,
    )
    assert Recipe.from_json(chosen.to_json()) == chosen
    assert m3dm_part(recipe("--modality", "both", "--series", "keep")).series == "keep"


@pytest.mark.parametrize(("modality", "view"), [("rgb", "part"), ("xyz", "top"), ("both", "top")])
def test_the_view_follows_the_modality(modality: str, view: str) -> None:
    assert preferred_view(recipe("--modality", modality)) == (view, "")


def test_the_size_counts_the_network_and_its_checkpoints() -> None:
    two, three = (recipe("--modality", "both", "--feature-fusion", fusion) for fusion in ("none", "uff"))
    widths = 256 * 2 + 2 * (256 * 1024 + 1024) + 2 * (1024 * 256 + 256) + 256 * 2 + 2 * (256 * 256 + 256)
    assert check_weights(three) - check_weights(two) == 9 * 4 * widths
