"""Options of `--family trd`: the recipe, the teacher, the view and the preprocessing that they lead to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from cmdiad_runtime.errors import RunError
from cmdiad_train.cli.train import cli
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.detectors.trd.family import check_weights
from cmdiad_train.detectors.trd.preprocessing import make_preprocessing, preferred_view, trained_modality
from cmdiad_train.detectors.trd.recipe_options import recipe_from, remarks
from cmdiad_train.extractors.store import FOLDER
from cmdiad_train.extractors.weights_file import Origin, image_metadata, save_weights
from cmdiad_train.recipe import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PUBLISHED_TRD,
    TEACHER_STAGES,
    Recipe,
    RgbExtractor,
    TrdRecipe,
    trd_part,
)


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which no weights are stored."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / FOLDER).mkdir(parents=True)
    return tmp_path / "cache" / FOLDER


def options(*arguments: object) -> dict[str, Any]:
    return dict(cli.make_context("cmdiad-train", ["DATA", "--family", "trd", *map(str, arguments)]).params)


def recipe(*arguments: object) -> Recipe:
    return recipe_from(options(*arguments), lambda: ())


def part(*arguments: object) -> TrdRecipe:
    return trd_part(recipe(*arguments))


def test_the_defaults_need_no_download() -> None:
    chosen = recipe()
    assert (chosen.modality, chosen.size, chosen.verdict, chosen.view) == ("rgb", 256, "map", "auto")
    assert chosen.detector == TrdRecipe()
    assert trd_part(chosen).teacher == RgbExtractor("resnet10t", TEACHER_STAGES, None, "shipped-rgb")
    assert part("--modality", "xyz").teacher.weights == "shipped-normals"
    assert part("--modality", "xyz", "--variant", "mtfi-rd").teacher.weights == "shipped-rgb"
    (line,) = remarks(options(), chosen)
    assert line.startswith("Extractor: small (resnet10t, shipped with cmdiad)")


@pytest.mark.parametrize(
    ("modality", "variant", "default"), [("rgb", "mtfi-rd", "rd"), ("xyz", "mtfi-trd", "rd"), ("both", "trd", "rd")]
)
def test_the_variant_follows_the_modality(modality: str, variant: str, default: str) -> None:
    assert part("--modality", modality).variant == default
    chosen = recipe("--modality", modality, "--variant", variant)
    assert trd_part(chosen).variant == variant
    assert trained_modality(chosen) == "both"
    assert trained_modality(recipe("--modality", modality)) == modality
    assert family_of("trd").run_name(chosen) == variant
    wrong = ("trd",) if modality != "both" else ("mtfi-trd", "mtfi-rd")
    for name in wrong:
        with pytest.raises(RunError, match=f"variant.*--modality {modality}"):
            recipe("--modality", modality, "--variant", name)


def test_faithful_is_as_published(empty_store: Path) -> None:
    chosen = recipe("--mode", "faithful", "--modality", "both")
    assert chosen.detector == PUBLISHED_TRD
    assert (chosen.size, chosen.view, chosen.verdict) == (256, "sensor", "image")
    published = trd_part(chosen)
    assert (published.epochs, published.batch, published.learning_rate, published.decay) == (200, 16, 5e-3, 0.95)
    assert (published.patience, published.distance, published.geometry) == (0, "flat", "pseudo-normals")
    assert (published.teacher.backbone, published.teacher.weights) == ("wide_resnet50_2.tv_in1k", "timm")
    prepared = make_preprocessing(chosen, "rgb", "both")
    assert (prepared.rgb_filter, prepared.xyz_feed, prepared.pad_multiple) == ("bilinear", "pseudo-normals", 1)
    stored = empty_store / "wide_resnet50_2.tv_in1k.safetensors"
    use = image_metadata(RgbExtractor("wide_resnet50_2.tv_in1k", (1, 2), 40), 320, IMAGENET_MEAN, IMAGENET_STD)
    save_weights(stored, {"a": torch.zeros(1)}, use, Origin("nothing", "none", "a test"))
    assert part("--mode", "faithful", "--modality", "both").teacher.weights == str(stored)
    with pytest.raises(click.UsageError, match="exclude each other"):
        recipe("--mode", "faithful", "--extractor", "small")


def test_a_weights_file_names_the_teacher_but_not_its_stages(tmp_path: Path) -> None:
    file = tmp_path / "images.safetensors"
    use = image_metadata(RgbExtractor("resnet18", (1, 2), 32), 320, IMAGENET_MEAN, IMAGENET_STD)
    save_weights(file, {"a": torch.zeros(1)}, use, Origin("nothing", "none", "a test"))
    assert part("--rgb-weights", file).teacher == RgbExtractor("resnet18", TEACHER_STAGES, None, str(file))
    assert recipe("--rgb-weights", file).size == 256
    assert part("--rgb-backbone", "resnet34").teacher == RgbExtractor("resnet34", TEACHER_STAGES, None, "seeded")
    seeded = ("--rgb-backbone", "resnet34")
    assert "random weights" in remarks(options(*seeded), recipe(*seeded))[0]
    assert remarks(options("--rgb-weights", file), recipe("--rgb-weights", file)) == []


def test_options_set_the_training() -> None:
    chosen = part("--epochs", 3, "--batch", 2, "--learning-rate", 0.1, "--patience", 0, "--distance", "pixel")
    assert (chosen.epochs, chosen.distil_epochs, chosen.batch, chosen.learning_rate) == (3, 3, 2, 0.1)
    assert (chosen.patience, chosen.distance) == (0, "pixel")


@pytest.mark.parametrize(
    ("arguments", "view"),
    [
        ((), "part"),
        (("--geometry", "depth"), "part"),
        (("--variant", "mtfi-rd"), "part"),
        (("--variant", "mtfi-rd", "--geometry", "depth"), "sensor"),
        (("--modality", "xyz"), "top"),
        (("--modality", "xyz", "--geometry", "pseudo-normals"), "sensor"),
        (("--modality", "xyz", "--no-foreground"), "sensor"),
        (("--modality", "both"), "each"),
        (("--modality", "both", "--variant", "trd"), "top"),
        (("--modality", "both", "--rgb-mask", "cloud"), "sensor"),
    ],
)
def test_the_preferred_view_is_that_of_the_part(arguments: tuple[str, ...], view: str) -> None:
    chosen = recipe(*arguments)
    assert preferred_view(chosen)[0] == view
    replace(chosen, view=view)  # type: ignore[arg-type]  # a view that the recipe accepts


@pytest.mark.parametrize("geometry", ["pseudo-normals", "depth"])
@pytest.mark.parametrize(("modality", "view"), [("xyz", "top"), ("both", "top"), ("both", "part")])
def test_published_clouds_need_the_view_of_the_sensor(geometry: str, modality: str, view: str) -> None:
    with pytest.raises(RunError, match=f"--geometry {geometry}"):
        recipe("--modality", modality, "--geometry", geometry, "--view", view)


def test_image_and_cloud_share_a_view() -> None:
    assert recipe("--modality", "both", "--view", "each").view == "each"
    with pytest.raises(RunError, match="same view"):
        recipe("--modality", "both", "--variant", "trd", "--view", "each")


def test_the_size_fits_the_strides() -> None:
    assert recipe("--size", 288).size == 288
    with pytest.raises(RunError, match="multiple of 32"):
        recipe("--size", 300)
    with pytest.raises(RunError, match="recipe size.*found 32.*Expected at least 64"):
        check_weights(recipe("--rgb-backbone", "test_resnet", "--size", 32))


def test_a_recipe_is_read_back() -> None:
    for chosen in (recipe(), recipe("--modality", "both", "--mode", "faithful")):
        assert Recipe.from_json(chosen.to_json()) == chosen


def test_missing_weights_and_a_full_disk_are_reported_before_the_work(tmp_path: Path) -> None:
    small = ("--rgb-backbone", "test_resnet", "--size", 64)
    sizes = {
        variant: check_weights(
            recipe(*small, "--modality", "both" if variant == "trd" else "rgb", "--variant", variant)
        )
        for variant in ("rd", "trd", "mtfi-trd", "mtfi-rd")
    }
    assert 0 < sizes["rd"] < sizes["trd"] < sizes["mtfi-trd"] < sizes["mtfi-rd"]
    with pytest.raises(RunError, match=r"absent\.safetensors"):
        check_weights(recipe(*small, "--rgb-weights", tmp_path / "absent.safetensors"))
    with pytest.raises(RunError, match="vit_tiny"):
        check_weights(recipe("--rgb-backbone", "vit_tiny_patch16_224"))
