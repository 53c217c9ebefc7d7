"""An image of another sensor than a camera: data set, training, bundle and inspection name it and read nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from cmdiad_export.cli import cli as export_cli
from cmdiad_line.recipes.store import ImportOptions, RecipeError, RecipeStore
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.cli.info import cli as info_cli
from cmdiad_runtime.cli.run import cli as run_cli
from cmdiad_runtime.colour import GreyRange
from cmdiad_train.cli.data import cli as data_cli
from cmdiad_train.cli.train import cli as train_cli
from cmdiad_train.datasets import open_category
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.recipe import AstRecipe, BankRecipe, Recipe, TrdRecipe
from cmdiad_train.runs.record import read_record
from helpers import assert_refused, command

OPTIONS = ("--size", 112, "--rgb-grid", 14, "--view", "sensor")


class Inspected(NamedTuple):
    """A data set with `rgb` and `infrared`, and run and bundle for infrared."""

    data: Path
    run: Path
    bundle: Path


def add_infrared(category: Path) -> None:
    """Add 16-bit images next to the camera's, from the same grey values, and remove the clouds."""
    for rgb in sorted(category.rglob("rgb")):
        (rgb.parent / "infrared").mkdir()
        shutil.rmtree(rgb.parent / "xyz")
        for path in sorted(rgb.iterdir()):
            with Image.open(path) as image:
                values = 7000 + 4 * np.asarray(image.convert("L")).astype(np.uint16)
            Image.fromarray(values).save(rgb.parent / "infrared" / path.name)


@pytest.fixture(scope="module")
def inspected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspected:
    folder = tmp_path_factory.mktemp("infrared")
    own = Path(shutil.copytree(data, folder / "data"))
    add_infrared(own / "gear")
    run, bundle = folder / "run", folder / "gear.cmdiad"
    trained = command(train_cli, own, "--modality", "infrared", *OPTIONS, "--out", run)
    assert trained.code == 0, trained.err
    assert "16-bit values" in trained.err
    exported = command(export_cli, run, "--out", bundle)
    assert exported.code == 0, exported.err
    for rgb in sorted(own.rglob("rgb")):
        shutil.rmtree(rgb)  # nothing of the camera is left for the inspection
    return Inspected(own, run, bundle)


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_records_name_the_modality(inspected: Inspected) -> None:
    record = read_record(inspected.run)
    assert record.recipe.modality_name == "infrared"
    assert record.recipe.to_json()["image_modality"] == "infrared"
    bundle = Bundle.open(inspected.bundle)
    assert bundle.preprocessing.modality_name == "infrared"
    colour = bundle.preprocessing.colour
    assert isinstance(colour, GreyRange)
    values = [
        np.asarray(Image.open(path))
        for place in ("train", "validation")
        for path in sorted((inspected.data / "gear" / place).rglob("infrared/*.png"))
    ]
    assert all(colour.low < int(image.min()) and int(image.max()) < colour.high for image in values)
    assert "infrared" in command(info_cli, inspected.bundle).out
    readme = (inspected.bundle / "README.txt").read_text(encoding="utf-8")
    assert "infrared (infrared camera)" in readme
    assert "16 bits" in readme


def test_inspection_reads_nothing_of_the_camera(inspected: Inspected, tmp_path: Path) -> None:
    test = inspected.data / "gear/test"
    ended = command(run_cli, inspected.bundle, test, "--modality", "infrared", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    results = rows(tmp_path / "out")
    assert len(results) == len(list(test.rglob("infrared/*.png")))
    assert all("/infrared/" in str(row["input"]) for row in results)
    assert all(row["inspected"] for row in results), results


@pytest.mark.failure_mode("A camera's image for an infrared detector")
@pytest.mark.parametrize("folder", ["rgb", "RGB"])
def test_camera_images_are_never_taken_for_infrared(inspected: Inspected, tmp_path: Path, folder: str) -> None:
    source = next((inspected.data / "gear/test/good/infrared").glob("*.png"))
    (tmp_path / folder).mkdir()
    shutil.copy(source, tmp_path / folder / "000.png")  # even with the right pixels, the folder says otherwise
    for named in (tmp_path / folder / "000.png", tmp_path):
        out = tmp_path / f"out-{named.name}"
        ended = command(run_cli, inspected.bundle, named, "--output", out)
        assert ended.code == 3, ended.err
        assert [row["verdict"] for row in rows(out)] == ["NG"]


@pytest.mark.failure_mode("A 16-bit image with a value outside the range of training")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: (values >> 8).astype(np.uint8), "unsupported"),
        (lambda values: np.where(np.arange(values.size).reshape(values.shape) == 77, 40_000, values), "exposure"),
    ],
)
def test_eight_bits_and_hot_pixels_are_ng(inspected: Inspected, tmp_path: Path, change: object, reason: str) -> None:
    source = next((inspected.data / "gear/test/good/infrared").glob("*.png"))
    with Image.open(source) as image:
        values = change(np.asarray(image))  # type: ignore[operator]
    (tmp_path / "parts").mkdir()
    Image.fromarray(values if values.dtype == np.uint8 else values.astype(np.uint16)).save(tmp_path / "parts/000.png")
    ended = command(run_cli, inspected.bundle, tmp_path / "parts", "--output", tmp_path / "out")
    assert ended.code == 3, ended.err
    assert [(row["verdict"], row["reason"]) for row in rows(tmp_path / "out")] == [("NG", reason)]


def test_bundle_for_another_modality_is_refused(inspected: Inspected) -> None:
    assert_refused(command(run_cli, inspected.bundle, "--modality", "rgb"), 4, "--modality infrared")
    assert_refused(command(run_cli, inspected.bundle, "--modality", "thermal"), 4, "--modality infrared")


def test_station_refuses_what_its_sources_cannot_deliver(inspected: Inspected, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="16 bits"):
        RecipeStore(tmp_path).import_bundle(inspected.bundle, ImportOptions(recipe_id="gear"))


def test_data_set_without_the_images_is_refused(data: Path, tmp_path: Path) -> None:
    ended = command(train_cli, data, "--modality", "infrared", "--out", tmp_path / "run")
    assert_refused(ended, 7, "training samples with rgb and xyz alone", "infrared")


@pytest.mark.parametrize(
    "options", [("--hallucination", "f2f"), ("--rgb-mask", "cloud"), ("--family", "trd", "--variant", "mtfi-rd")]
)
def test_pairs_with_a_cloud_are_refused(data: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    ended = command(train_cli, data, "--modality", "infrared", *options, "--out", tmp_path / "run")
    assert_refused(ended, 7, "infrared")


@pytest.mark.parametrize("part", [BankRecipe(), TrdRecipe(variant="rd"), AstRecipe()])
def test_every_family_prepares_the_named_image(part: BankRecipe | TrdRecipe | AstRecipe) -> None:
    recipe = Recipe(part, image_modality="infrared")
    assert family_of(part.family).preprocessing(recipe, "grey", "rgb").image_modality == "infrared"


def test_check_lists_both_images(data: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(data, tmp_path / "data"))
    add_infrared(own / "gear")
    ended = command(data_cli, "check", own)
    assert ended.code == 0, ended.err
    first, second = ended.out.split("gear (mvtec3d layout")[1:]
    assert "rgb 6" in first
    assert "infrared 6" in second
    assert "16-bit values" in second
    assert "--modality infrared" in second
    assert "figures of pixels: no defect has a mask" in second  # the masks are drawn on the camera's images
    assert "--category all" not in ended.out


def test_own_folder_and_own_masks(tmp_path: Path) -> None:
    for place in ("OK/infrared", "OK/rgb", "NOK/infrared", "NOK/rgb"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(np.full((8, 8), 9 * number, np.uint8)).save(tmp_path / place / f"{number}.png")
    category = open_category(tmp_path, None, "infrared")
    assert category.images == ("rgb", "infrared")
    assert {files.rgb.parent.name for files in category.split("train", ("rgb",)) if files.rgb} == {"infrared"}
    (tmp_path / "NOK/gt").mkdir()
    (tmp_path / "NOK/gt-infrared").mkdir()
    Image.new("L", (8, 8), 255).save(tmp_path / "NOK/gt/0.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "NOK/gt-infrared/1.png")
    test = category.split("test", ("rgb",))
    assert {files.defect for files in test} == {"NOK"}  # no mask is taken for a part
    masks = [files.ground_truth for files in test if files.ground_truth]
    assert masks == [tmp_path / "NOK/gt-infrared/1.png"]
