"""The option --paper sets a row of the paper's tables, and --mode faithful warns where the protocol has more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from cmdiad_runtime.errors import RunError
from cmdiad_train.cli.train import cli
from cmdiad_train.detectors.bank.recipe_options import recipe_from, remarks
from cmdiad_train.extractors.weights_file import Origin, image_metadata, point_metadata, save_weights
from cmdiad_train.recipe import IMAGENET_MEAN, IMAGENET_STD, PUBLISHED_RGB, PUBLISHED_XYZ, Recipe, bank_part
from helpers import command

ORIGIN = Origin("nothing", "none", "a test")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the published weights, as their records describe them."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache/weights"
    folder.mkdir(parents=True)
    use = image_metadata(PUBLISHED_RGB, 224, IMAGENET_MEAN, IMAGENET_STD)
    save_weights(folder / f"{PUBLISHED_RGB.backbone}.safetensors", {"a": torch.zeros(1)}, use, ORIGIN)
    imported = {**point_metadata(PUBLISHED_XYZ), "normalisation": '"frozen"', "grid": "28"}
    save_weights(folder / "point_mae.safetensors", {"a": torch.zeros(1)}, imported, ORIGIN)
    return folder


def options(*arguments: object) -> dict[str, Any]:
    return dict(cli.make_context("cmdiad-train", ["DATA", *map(str, arguments)]).params)


def recipe(*arguments: object) -> Recipe:
    return recipe_from(options(*arguments), lambda: ("bagel", "foam"))


def test_a_row_sets_everything_and_is_recorded(store: Path) -> None:
    chosen = recipe("--paper", "xyz-f2f")
    part = bank_part(chosen)
    assert (chosen.modality, part.hallucination, part.mode, part.paper) == ("xyz", "f2f", "faithful", "xyz-f2f")
    assert (chosen.rgb_mask, chosen.size, chosen.view) == ("cloud", 224, "sensor")
    assert part.distillation.categories == ("bagel", "foam")
    assert part.rgb.weights == str(store / f"{PUBLISHED_RGB.backbone}.safetensors")
    assert part.points is not None
    assert part.points.weights == str(store / "point_mae.safetensors")
    assert (part.points.normalisation, part.points.grid, part.points.groups) == ("batch", 56, 1024)
    assert Recipe.from_json(chosen.to_json()) == chosen
    assert remarks(options("--paper", "xyz-f2f"), chosen) == []


@pytest.mark.parametrize("row", ["xyz", "rgb", "rgb-i2f", "xyz-f2i"])
def test_every_row_is_one_value(store: Path, row: str) -> None:
    chosen = recipe("--paper", row)
    part = bank_part(chosen)
    assert row == (chosen.modality if part.hallucination == "none" else f"{chosen.modality}-{part.hallucination}")
    assert remarks(options("--paper", row), chosen) == []


def test_seed_and_rate_stay_open(store: Path) -> None:
    chosen = recipe("--paper", "rgb", "--seed", 3, "--false-reject-rate", 0.01)
    assert (chosen.seed, chosen.false_reject_rate) == (3, 0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--modality", "rgb"), "sets --modality xyz"),
        (("--modality", "infrared"), "sets --modality xyz"),
        (("--mode", "default"), "sets --mode faithful"),
        (("--rgb-mask", "none"), "sets --rgb-mask cloud"),
        (("--distil-on", "bagel"), "sets --distil-on all"),
        (("--size", 320), "sets --size 224"),
        (("--coreset", 0.2), "leaves --coreset unset"),
        (("--epochs", 10), "leaves --epochs unset"),
        (("--extractor", "small"), "leaves --extractor unset"),
    ],
)
def test_contradictions_are_refused(store: Path, arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        recipe("--paper", "xyz-f2f", *arguments)


@pytest.mark.parametrize("family", ["trd", "auto"])
def test_a_row_of_another_family_is_refused_by_name(tmp_path: Path, family: str) -> None:
    """The error names `--paper`, which the user typed. It does not name `--hallucination`, which the row sets."""
    ended = command(cli, tmp_path, "--paper", "rgb-f2f", "--family", family)
    assert ended.code == 2
    assert "Error: --paper is an option of the family bank, not of trd." in ended.err


def test_a_mask_is_refused(store: Path) -> None:
    with pytest.raises(RunError, match="row of the paper"):
        replace(recipe("--paper", "xyz-f2f"), mask="0" * 64)


def test_missing_weights_of_point_mae_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path))
    for arguments in ((), ("--xyz-weights", "seeded")):
        with pytest.raises(RunError, match=r"no weights of Point-MAE.*cmdiad-extractor import pointmae_pretrain\.pth"):
            recipe("--paper", "xyz", *arguments)
    assert bank_part(recipe("--paper", "rgb")).rgb.weights == "timm"
    with pytest.raises(RunError, match="cmdiad-extractor fetch vit_base_patch8_224.dino"):
        recipe("--paper", "rgb", "--rgb-weights", "seeded")


def test_weights_under_a_published_file_name_alone_are_refused_with_the_import_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`import` stores a file of an unknown release under its own name, which no row takes for the published weights."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    unknown = replace(PUBLISHED_RGB, backbone=PUBLISHED_RGB.backbone.removesuffix(".dino"))
    use = image_metadata(unknown, 224, IMAGENET_MEAN, IMAGENET_STD)
    save_weights(tmp_path / f"weights/{PUBLISHED_RGB.backbone}.safetensors", {"a": torch.zeros(1)}, use, ORIGIN)
    with pytest.raises(RunError) as refused:
        recipe("--paper", "rgb")
    assert "cmdiad-extractor import FILE --kind dino --backbone vit_base_patch8_224.dino;" in str(refused.value)


def test_faithful_warns_where_the_protocol_has_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path))
    faithful = ("--mode", "faithful", "--hallucination", "f2f")
    lines = remarks(options(*faithful), recipe(*faithful))
    assert [line.rpartition("add ")[2] for line in lines] == [
        "--rgb-mask cloud.",
        "--distil-on all.",
        "--xyz-weights FILE.",
    ]
    resnet = ("--rgb-backbone", "resnet18", "--rgb-stages", "1", "--rgb-weights", "seeded")
    other = (*faithful, "--xyz", "normals", *resnet)
    assert [line.partition(": ")[2].partition(":")[0] for line in remarks(options(*other), recipe(*other))][2:] == [
        "clouds are seen by Point-MAE",
        "images are seen by vit_base_patch8_224.dino",
    ]
    masked = ("--mode", "faithful", "--rgb-mask", "cloud")
    assert remarks(options(*masked), recipe(*masked)) == []
