"""What weights files say of themselves becomes the default of the options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from cmdiad_runtime.errors import RunError
from cmdiad_train.cli.train import cli
from cmdiad_train.detectors.bank.recipe_options import recipe_from
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.extractors.weights_file import Origin, image_metadata, point_metadata, save_weights
from cmdiad_train.recipe import (
    DEFAULT_RECIPE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    BankRecipe,
    Recipe,
    RgbExtractor,
    SurfaceExtractor,
    XyzExtractor,
    bank_part,
    has_relative_distances,
)
from helpers import command

ORIGIN = Origin("nothing", "none", "a test")
POINTS = XyzExtractor("point_bert", 200, 20, 48, 6, 4, (1, 5), "eval", "seeded", 20)


def recipe(*options: object) -> BankRecipe:
    return bank_part(whole_recipe(*options))


def whole_recipe(*options: object) -> Recipe:
    context = cli.make_context("cmdiad-train", ["DATA", *map(str, options)])
    return recipe_from(context.params, lambda: ())


def image_file(path: Path, backbone: str = "convnext_atto", size: int = 256) -> Path:
    use = image_metadata(RgbExtractor(backbone, (1, 2), 32), size, IMAGENET_MEAN, IMAGENET_STD)
    save_weights(path, {"a": torch.zeros(1)}, use, ORIGIN)
    return path


def point_file(path: Path) -> Path:
    save_weights(path, {"a": torch.zeros(1)}, point_metadata(POINTS), ORIGIN)
    return path


def test_images_file_sets_backbone_stages_grid_and_size(tmp_path: Path) -> None:
    file = image_file(tmp_path / "rgb.safetensors")
    found = recipe("--rgb-weights", file)
    assert found.rgb == RgbExtractor("convnext_atto", (1, 2), 32, str(file))
    assert found.xyz == SurfaceExtractor("normals", found.rgb)
    assert whole_recipe("--rgb-weights", file).size == 256


def test_given_options_stand_where_the_weights_leave_a_choice(tmp_path: Path) -> None:
    file = image_file(tmp_path / "rgb.safetensors")
    options = ("--rgb-stages", "1", "--rgb-grid", 16, "--size", 128, "--rgb-backbone", "convnext_atto")
    found = recipe("--rgb-weights", file, *options)
    assert found.rgb == RgbExtractor("convnext_atto", (1,), 16, str(file))
    assert whole_recipe("--rgb-weights", file, *options).size == 128


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--modality", "rgb"), "auto"),
        (("--modality", "xyz"), "auto"),
        (("--modality", "both"), "auto"),
        (("--modality", "xyz", "--distances", "plain"), "plain"),
        (("--modality", "rgb", "--distances", "relative"), "relative"),
        (("--modality", "xyz", "--mode", "faithful"), "plain"),
        (("--modality", "rgb", "--mode", "faithful"), "plain"),
    ],
)
def test_distances_follow_the_view_unless_published(options: tuple[Any, ...], expected: str) -> None:
    assert recipe(*options).distances == expected


@pytest.mark.parametrize(
    ("distances", "view", "expected"),
    [
        ("auto", "part", True),
        ("auto", "each", True),
        ("auto", "sensor", False),
        ("relative", "sensor", True),
        ("plain", "top", False),
    ],
)
def test_auto_means_relative_distances_where_the_view_follows_the_part(
    distances: str, view: str, expected: bool
) -> None:
    found = whole_recipe("--modality", "both", "--view", view, "--distances", distances)
    assert has_relative_distances(found) is expected


@pytest.mark.parametrize("family", ["patchcore", "m3dm"])
def test_published_banks_keep_plain_distances(family: str) -> None:
    context = cli.make_context("cmdiad-train", ["DATA", "--family", family, "--modality", "both"])
    assert bank_part(family_of(family).recipe(context.params, lambda: ())).distances == "plain"


def test_surface_file_is_independent_of_the_images(tmp_path: Path) -> None:
    rgb, surface = image_file(tmp_path / "rgb.safetensors"), image_file(tmp_path / "s.safetensors", "resnet10t")
    found = recipe("--modality", "both", "--rgb-weights", rgb, "--surface-weights", surface, "--surface-grid", 20)
    assert found.rgb.backbone == "convnext_atto"
    assert found.xyz == SurfaceExtractor("normals", RgbExtractor("resnet10t", (1, 2), 20, str(surface)))


def test_each_kind_of_image_has_weights_of_its_own() -> None:
    found = recipe("--rgb-grid", 28, "--size", 224)
    assert found.rgb == RgbExtractor("resnet10t", (1, 2), 28, "shipped-rgb")
    assert found.xyz == SurfaceExtractor("normals", RgbExtractor("resnet10t", (1, 2), 28, "shipped-normals"))
    depth = recipe("--xyz", "depth").xyz
    assert depth == SurfaceExtractor("depth", RgbExtractor("resnet10t", (1, 2), 40, "seeded"))
    other = recipe("--rgb-backbone", "convnext_atto")
    assert other.rgb.weights == "seeded" and other.xyz == SurfaceExtractor("normals", other.rgb)


def test_points_file_sets_all_of_its_encoder(tmp_path: Path) -> None:
    file = point_file(tmp_path / "points.safetensors")
    found = recipe("--modality", "xyz", "--xyz-weights", file)
    assert found.xyz == XyzExtractor("point_bert", 200, 20, 48, 6, 4, (1, 5), "eval", str(file), 20)
    given = recipe("--modality", "xyz", "--xyz-weights", file, "--xyz-groups", 100, "--xyz-depth", 6).points
    assert given is not None
    assert (given.groups, given.depth, given.taps) == (100, 6, (1, 5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rgb-weights", "rgb", "--rgb-backbone", "resnet10t"), ("convnext_atto", "resnet10t", "--rgb-backbone")),
        (("--surface-weights", "rgb", "--surface-backbone", "vit"), ("convnext_atto", "vit", "--surface-backbone")),
        (("--xyz-weights", "points", "--xyz", "point_mae"), ("point_bert", "point_mae", "--xyz")),
        (("--xyz-weights", "points", "--xyz-width", 96), ("48", "96", "--xyz-width")),
        (("--xyz-weights", "points", "--xyz-depth", 12), ("6", "12", "--xyz-depth")),
        (("--xyz-weights", "points", "--xyz-heads", 3), ("4", "3", "--xyz-heads")),
        (("--xyz-weights", "rgb"), ("an image", "--xyz-weights")),
        (("--rgb-weights", "points"), ("a cloud", "--rgb-weights")),
        (("--rgb-weights", "rgb", "--surface-weights", "other"), ("256 pixels", "for 128", "--size")),
    ],
)
def test_contradictions_name_both(tmp_path: Path, options: tuple[Any, ...], words: tuple[str, ...]) -> None:
    files = {
        "rgb": image_file(tmp_path / "rgb.safetensors"),
        "other": image_file(tmp_path / "other.safetensors", size=128),
        "points": point_file(tmp_path / "points.safetensors"),
    }
    with pytest.raises(RunError) as refused:
        recipe("--modality", "both", *(files.get(option, option) for option in options))
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle"])
def test_other_files_say_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "official.pth"
    path.write_bytes(content)
    found = recipe("--xyz", "point_mae", "--xyz-weights", path, "--rgb-weights", path)
    default: Any = DEFAULT_RECIPE.detector
    assert found.rgb == replace(default.rgb, weights=str(path))
    assert found.xyz == XyzExtractor(weights=str(path))


@pytest.mark.parametrize(
    "options",
    [
        ("--xyz-groups", 64),
        ("--xyz", "depth", "--xyz-normalisation", "eval"),
        ("--xyz", "point_mae", "--surface-grid", 14),
    ],
)
def test_option_that_would_do_nothing_is_refused(options: tuple[Any, ...]) -> None:
    with pytest.raises(click.UsageError, match=f"{options[-2]} needs --xyz"):
        recipe(*options)


VIT = ("--rgb-backbone", "test_vit", "--rgb-weights", "seeded")


def test_layers_replace_the_stages_of_the_default() -> None:
    found = recipe("--modality", "both", *VIT, "--rgb-layers", "3,6")
    assert (found.rgb.backbone, found.rgb.stages, found.rgb.layers) == ("test_vit", (), (3, 6))
    assert found.xyz == SurfaceExtractor("normals", found.rgb)
    assert recipe(*VIT, "--rgb-stages", "").rgb.layers == ()


def test_clouds_may_have_other_layers_or_stages() -> None:
    def surface(*options: object) -> RgbExtractor:
        xyz = recipe("--modality", "both", *VIT, "--rgb-layers", "3", *options).xyz
        assert isinstance(xyz, SurfaceExtractor)
        return xyz.backbone

    assert surface().layers == (3,)
    assert surface("--surface-layers", "2").layers == (2,)
    assert surface("--surface-layers", "") == replace(surface(), layers=())
    cnn = surface("--surface-backbone", "resnet10t", "--surface-stages", "1,2")
    assert (cnn.stages, cnn.layers) == ((1, 2), ())


def test_layers_may_differ_from_the_weights_file(tmp_path: Path) -> None:
    spec, file = RgbExtractor("test_vit", (), None), tmp_path / "vit.safetensors"
    save_weights(file, {"a": torch.zeros(1)}, image_metadata(spec, 112, IMAGENET_MEAN, IMAGENET_STD), ORIGIN)
    assert recipe("--rgb-weights", file).rgb == replace(spec, weights=str(file))
    chosen = whole_recipe("--rgb-weights", file, "--rgb-layers", "2")
    assert bank_part(chosen).rgb == replace(spec, weights=str(file), layers=(2,))
    assert chosen.size == 112


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rgb-stages", "1", "--rgb-layers", "3"), "--rgb-stages and --rgb-layers exclude each other"),
        (("--surface-stages", "1", "--surface-layers", "3"), "--surface-stages and --surface-layers exclude"),
        (("--rgb-layers", "third"), "'third' is not a list of numbers such as 3,6"),
        (("--surface-layers", "1.5"), "'1.5' is not a list of numbers such as 3,6"),
        (("--xyz", "point_mae", "--surface-layers", "3"), "--surface-layers needs --xyz normals or depth"),
        (("--rgb-layers", "0"), "recipe layers: found (0,)"),
        (("--rgb-layers", "3,3"), "each layer once"),
    ],
)
def test_wrong_layers(options: tuple[str, ...], words: str) -> None:
    with pytest.raises((click.UsageError, RunError)) as refused:
        recipe("--modality", "both", *options)
    text = refused.value.message if isinstance(refused.value, click.UsageError) else str(refused.value)
    assert words in text


@pytest.mark.parametrize("family", ["trd", "ast", "shape-guided"])
def test_families_with_fixed_stages_have_no_layers(tmp_path: Path, family: str) -> None:
    ended = command(cli, tmp_path, "--family", family, "--modality", "both", "--rgb-layers", 3)
    assert ended.code == 2
    assert f"--rgb-layers is an option of the family bank, not of {family}." in " ".join(ended.err.split())


def test_published_features_of_patchcore_have_no_layers() -> None:
    context = cli.make_context("cmdiad-train", ["DATA", "--family", "patchcore", "--mode", "faithful", *VIT])
    with pytest.raises(RunError, match="rgb_layers.*none with --mode faithful"):
        family_of("patchcore").recipe({**context.params, "rgb_layers": "3"}, lambda: ())


@pytest.mark.parametrize("family", ["bank", "m3dm"])
def test_other_layers_than_the_published_ones_are_named(family: str) -> None:
    def remarks(*options: str) -> str:
        common = ("DATA", "--family", family, "--modality", "both", "--mode", "faithful")
        context = cli.make_context("cmdiad-train", [*common, *options])
        chosen = family_of(family)
        return "\n".join(chosen.remarks(context.params, chosen.recipe(context.params, lambda: ())))

    assert "leave out --rgb-layers" in remarks("--rgb-layers", "3")
    assert "--rgb-layers" not in remarks()


def test_rows_of_the_paper_have_no_layers() -> None:
    with pytest.raises(click.UsageError, match="leaves --rgb-layers unset"):
        recipe("--paper", "rgb", "--rgb-layers", "3")
