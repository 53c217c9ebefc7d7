"""Options of `--family dsr3d`: the recipe, the view and the preprocessing that they lead to."""

from __future__ import annotations

from typing import Any

import pytest

from cmdiad_runtime.errors import RunError
from cmdiad_train.cli.train import cli
from cmdiad_train.detectors.dsr3d.family import check_size
from cmdiad_train.detectors.dsr3d.preprocessing import make_preprocessing, preferred_view
from cmdiad_train.detectors.dsr3d.recipe_options import recipe_from, remarks
from cmdiad_train.detectors.network_size import CHECKPOINT_COPIES
from cmdiad_train.recipe import PUBLISHED_DSR3D, Dsr3dRecipe, Recipe, dsr3d_part


def options(*arguments: object) -> dict[str, Any]:
    return dict(cli.make_context("cmdiad-train", ["DATA", "--family", "dsr3d", *map(str, arguments)]).params)


def recipe(*arguments: object) -> Recipe:
    return recipe_from(options(*arguments), lambda: ())


def test_the_defaults_are_small() -> None:
    chosen = recipe("--modality", "xyz")
    assert (chosen.size, chosen.verdict, chosen.view, chosen.detector) == (256, "map", "auto", Dsr3dRecipe())
    assert remarks(options("--modality", "xyz"), chosen) == []
    assert check_size(recipe("--code-width", 128)) > check_size(recipe()) > 0


def test_faithful_is_as_published() -> None:
    arguments = ("--mode", "faithful", "--modality", "both")
    chosen = recipe(*arguments)
    assert (chosen.size, chosen.view, chosen.verdict, chosen.detector) == (384, "sensor", "image", PUBLISHED_DSR3D)
    settings = make_preprocessing(chosen, "rgb", "both")
    assert (settings.xyz_feed, settings.rgb_filter) == ("published-depth", "bilinear")
    assert preferred_view(chosen)[0] == "sensor"
    (line,) = remarks(options(*arguments), chosen)
    assert "instead of ImageNet" in line


@pytest.mark.parametrize("mode", ["default", "faithful"])
def test_a_detector_of_images_is_labelled_as_our_own_recipe(mode: str) -> None:
    arguments = ("--modality", "rgb", "--mode", mode)
    line, *_ = remarks(options(*arguments), recipe(*arguments))
    assert line == "3DSR for images alone is a recipe of cmdiad that is not published."


def test_the_published_networks_have_the_published_size() -> None:
    """59.7 and 63.3 million parameters in use, 54.6 of them in the networks of the object (docs/dsr3d.md)."""
    for modality, millions in (("both", 59.7), ("xyz", 63.3)):
        chosen = recipe("--mode", "faithful", "--modality", modality)
        part = dsr3d_part(chosen)
        sums = 2 * (part.codes * part.width + part.codes) * 4
        with_checkpoints = 4e6 * (millions + CHECKPOINT_COPIES * 54.6)
        assert check_size(chosen) - sums == pytest.approx(with_checkpoints, rel=1e-3)


def test_values_of_options_enter_the_recipe() -> None:
    sizes = ("--code-width", 32, "--codes", 64, "--autoencoder-steps", 5, "--epochs", 3, "--batch", 2)
    chosen = recipe(*sizes, "--modality", "xyz", "--geometry", "depth")
    part = dsr3d_part(chosen)
    assert (part.width, part.codes, part.autoencoder_steps, part.epochs, part.batch) == (32, 64, 5, 3, 2)
    assert make_preprocessing(chosen, "rgb", "xyz").xyz_feed == "published-depth"
    assert Recipe.from_json(chosen.to_json()) == chosen


@pytest.mark.parametrize(("modality", "view"), [("rgb", "part"), ("xyz", "top"), ("both", "top")])
def test_the_view_follows_the_modality(modality: str, view: str) -> None:
    assert preferred_view(recipe("--modality", modality)) == (view, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modality", "both", "--view", "each"), "recipe view: found 'each'"),
        (("--size", 272), "recipe size: found 272.*multiple of 32"),
        (("--size", 32), "recipe size: found 32"),
        (("--code-width", 40), "recipe width: found 40.*multiple of 16"),
        (("--modality", "xyz", "--geometry", "depth", "--view", "top"), "recipe view: found 'top'"),
        (("--modality", "xyz", "--geometry", "pseudo-normals"), "recipe geometry: found 'pseudo-normals'"),
    ],
)
def test_contradictions_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(RunError, match=message):
        recipe(*arguments)
