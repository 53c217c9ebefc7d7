"""Pairs of two image sensors: training reads the second image, inspection and everything exported do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
import torch.nn.functional as F
from PIL import Image

from cmdiad_export.cli import cli as export_cli
from cmdiad_runtime.cli.info import cli as info_cli
from cmdiad_runtime.cli.run import cli as run_cli
from cmdiad_runtime.colour import GreyRange
from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
from cmdiad_runtime.readers import read_rgb
from cmdiad_runtime.sample import RgbImage, Sample
from cmdiad_train.cli.train import cli as train_cli
from cmdiad_train.detectors.bank.fitting.hallucinating import take_over
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.fit.mask import InspectionMask
from cmdiad_train.fit.partner import cut_out_like
from cmdiad_train.recipe import BankRecipe, Recipe, bank_part
from cmdiad_train.runs.record import FILE, read_record
from cmdiad_train.runs.run import load_run
from cmdiad_train.runs.tensors import load_tensors
from cmdiad_train.training.machine import Machine
from helpers import RecordingReporter, assert_refused, command, tiny_recipe
from reporters import InterruptAt
from runs import assert_whole, hashes

NETWORK = "hallucination.safetensors"
OPTIONS = ("--size", 112, "--rgb-grid", 14, "--hallucination", "f2f", "--epochs", 2)
Change = Callable[[np.ndarray], np.ndarray]


def as_recorded(values: np.ndarray) -> np.ndarray:
    """Return grey values `[h, w]` as uint16 in another order of brightness, with the part still brightest."""
    return (7000 + 4 * np.abs(values.astype(np.int32) - 90)).astype(np.uint16)


def add_infrared(data: Path, change: Change = as_recorded) -> Path:
    """Add infrared images next to the camera's, and remove the clouds."""
    for rgb in sorted((data / "gear").rglob("rgb")):
        (rgb.parent / "infrared").mkdir()
        shutil.rmtree(rgb.parent / "xyz", ignore_errors=True)
        for path in sorted(rgb.iterdir()):
            with Image.open(path) as image:
                values = change(np.asarray(image.convert("L")))
            Image.fromarray(values).save(rgb.parent / "infrared" / path.name)
    return data


def images(data: Path, name: str = "infrared", split: str = "train") -> list[Path]:
    return sorted((data / "gear" / split / "good" / name).iterdir())


def pair_recipe(main: str = "rgb", partner: str = "infrared", **changes: Any) -> Any:
    recipe = tiny_recipe("rgb", "none", components=16, image_score="max", image_modality=main)
    part = replace(bank_part(recipe), hallucination="f2f", partner=partner)
    own = {name: changes.pop(name) for name in list(changes) if hasattr(part, name)}
    return replace(recipe, detector=replace(part, **own), **changes)


@pytest.fixture(scope="module")
def pairs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_infrared(Path(shutil.copytree(data, tmp_path_factory.mktemp("pairs") / "data")))


@pytest.fixture
def own_pairs(pairs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pairs, tmp_path / "own-pairs"))


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the camera in the view of the sensor, trained with infrared."""
    folder = tmp_path_factory.mktemp("run") / "run"
    fit(pairs, None, pair_recipe(), folder)
    return folder


@pytest.mark.parametrize(
    ("main", "partner", "view", "precision"),
    [("rgb", "infrared", "sensor", "fp32"), ("infrared", "rgb", "part", "int8-cpu")],
)
def test_bundle_inspects_without_the_second_image(
    own_pairs: Path, tmp_path: Path, main: str, partner: str, view: str, precision: str
) -> None:
    for place in ("validation", "test"):
        for folder in sorted((own_pairs / "gear" / place).rglob(partner)):
            shutil.rmtree(folder)  # only training samples need it
    run, bundle = tmp_path / "run", tmp_path / "gear.cmdiad"
    options = ("--modality", main, "--partner", partner, "--view", view, *OPTIONS)
    trained = command(train_cli, own_pairs, *options, "--out", run)
    assert trained.code == 0, trained.err
    assert f"in {main} is paired with the same place" in trained.err
    assert f"extract {main} features" in trained.err
    exported = command(export_cli, run, "--precision", precision, "--out", bundle)
    assert exported.code == 0, exported.err
    note = f"{partner} images of the same parts; inspection needs {main} alone"
    assert note in command(info_cli, run).out
    assert note in command(info_cli, bundle).out
    assert note in " ".join((bundle / "README.txt").read_text(encoding="utf-8").split())
    shutil.rmtree(own_pairs / "gear/train")
    ended = command(run_cli, bundle, own_pairs / "gear/test", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    inspected = (tmp_path / "out/results.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(inspected) == 5
    assert all('"inspected": true' in row and f"/{main}/" in row for row in inspected)


def test_records_name_the_pair_and_its_preprocessing(pairs: Path, run: Path) -> None:
    record = read_record(run)
    assert record.recipe.to_json()["detector"]["partner"] == "infrared"
    assert record.preprocessing.colour == "rgb"
    assert record.preprocessing.image_modality == "rgb"
    assert record.partner is not None
    assert record.partner.image_modality == "infrared"
    colour = record.partner.colour
    assert isinstance(colour, GreyRange)
    values = np.stack([np.asarray(Image.open(path)) for path in images(pairs)])
    quarter = (int(values.max()) - int(values.min())) / 4
    assert colour.low == pytest.approx(int(values.min()) - quarter, abs=1)
    assert colour.high == pytest.approx(int(values.max()) + quarter, abs=1)
    assert set(record.provenance) == {"rgb", "partner"}
    assert type(record).from_json(record.to_json()) == record
    with pytest.raises(ValueError, match="partner"):
        replace(record, partner=None)
    with pytest.raises(ValueError, match="partner"):
        replace(record, partner=replace(record.partner, image_modality="thermal"))


def test_recipes_without_a_partner_are_written_as_before() -> None:
    assert "partner" not in Recipe(BankRecipe(hallucination="f2f")).to_json()["detector"]
    assert "registered" not in pair_recipe().to_json()["detector"]
    assert Recipe.from_json(pair_recipe().to_json()) == pair_recipe()
    followed = pair_recipe(registered=True)
    assert followed.to_json()["detector"]["registered"] is True
    assert Recipe.from_json(followed.to_json()) == followed != pair_recipe()


def as_network_sees(values: np.ndarray, colour: GreyRange, size: int) -> torch.Tensor:
    """Convert a 16-bit image to the network input `[1, size, size, 3]`, uint8, by the formula of docs/data.md."""
    level = np.rint(255 * (values.astype(np.float64) - colour.low) / (colour.high - colour.low)).astype(np.uint8)
    assert level.shape == (size, size)
    return torch.from_numpy(np.repeat(level[None, ..., None], 3, 3))


@torch.no_grad()
def test_network_predicts_the_features_of_the_second_image(pairs: Path, run: Path) -> None:
    """Targets from the images themselves, hallucinated features from the layers of the network."""
    record, state = read_record(run), load_tensors(run / NETWORK)
    assert record.partner is not None
    assert isinstance(record.partner.colour, GreyRange)
    extractor = TimmBackbone(bank_part(record.recipe).rgb, size=112, seed=0).eval()
    shown = [as_network_sees(np.asarray(Image.open(p)), record.partner.colour, 112) for p in images(pairs)]
    rows = torch.stack([extractor(image)[0] for image in shown])
    basis = load_tensors(run / "projection-partner.safetensors")["basis"]
    targets = rows @ basis
    torch.testing.assert_close(state["target_mean"], targets.mean((0, 1)), rtol=1e-3, atol=1e-4)
    assert not torch.equal(basis, load_tensors(run / "projection-rgb.safetensors")["basis"])

    detector = load_run(run).detector
    image = torch.from_numpy(np.asarray(Image.open(images(pairs, "rgb")[0]).convert("RGB")).copy())[None]
    main, hallucinated = detector.patches(image)
    assert main[0].shape == hallucinated[0].shape == (14**2, 16)
    x = F.layer_norm(main[0], (16,), state["norm.weight"], state["norm.bias"])
    for layer in ("mlp.fc1", "mlp.fc2"):
        x = F.gelu(F.linear(x, state[f"{layer}.weight"], state[f"{layer}.bias"]))
    x = F.linear(x, state["mlp.fc3.weight"], state["mlp.fc3.bias"])
    torch.testing.assert_close(hallucinated[0], x * state["target_scale"] + state["target_mean"], rtol=1e-4, atol=1e-5)


def test_pairs_are_made_by_name(own_pairs: Path, run: Path, tmp_path: Path) -> None:
    first, *others = images(own_pairs)
    contents = [path.read_bytes() for path in (first, *others)]
    for path, content in zip((*others, first), contents, strict=True):
        path.write_bytes(content)
    fit(own_pairs, None, pair_recipe(), tmp_path / "shuffled")
    shuffled, straight = hashes(tmp_path / "shuffled"), hashes(run)
    assert shuffled["projection-rgb.safetensors"] == straight["projection-rgb.safetensors"]
    assert shuffled[NETWORK] != straight[NETWORK]


def test_store_keeps_features_of_each_version_of_an_image(own_pairs: Path, run: Path, tmp_path: Path) -> None:
    shared = FitOptions(features=tmp_path / "store")
    fit(own_pairs, None, pair_recipe(), tmp_path / "first", options=shared)
    assert hashes(tmp_path / "first") == hashes(run)
    for path in images(own_pairs):
        values = np.asarray(Image.open(path))
        Image.fromarray(values.T.copy()).save(path)
    fit(own_pairs, None, pair_recipe(), tmp_path / "second", options=shared)
    fit(own_pairs, None, pair_recipe(), tmp_path / "alone")
    assert hashes(tmp_path / "second") == hashes(tmp_path / "alone")
    assert hashes(tmp_path / "second")[NETWORK] != hashes(run)[NETWORK]


@pytest.mark.parametrize(
    ("step", "done"), [("extract partner features", 2), ("distil f2f", 1), ("prepare infrared images", 3)]
)
def test_interrupted_training_goes_on_to_the_same_bytes(
    pairs: Path, run: Path, tmp_path: Path, step: str, done: int
) -> None:
    again = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(pairs, None, pair_recipe(), again, InterruptAt(step, done))
    if again.exists():
        assert_whole(again)
    assert fit(pairs, None, pair_recipe(), again).status == "complete"
    assert hashes(again) == hashes(run)


def test_another_partner_is_another_training(own_pairs: Path, run: Path, tmp_path: Path) -> None:
    for folder in sorted(own_pairs.rglob("infrared")):
        shutil.copytree(folder, folder.with_name("thermal"))
    again = Path(shutil.copytree(run, tmp_path / "run"))
    with pytest.raises(OutputError, match="partner thermal instead of infrared"):
        fit(own_pairs, None, pair_recipe(partner="thermal"), again)
    with pytest.raises(RunError, match="partner"):
        take_over(run, tmp_path / "other", pair_recipe(partner="thermal"))
    taken = fit(own_pairs, None, pair_recipe(), tmp_path / "taken", options=FitOptions(Machine(), network_from=run))
    assert taken.status == "complete"
    assert (tmp_path / "taken" / NETWORK).read_bytes() == (run / NETWORK).read_bytes()


def test_training_samples_without_a_second_image_are_left_out_by_name(own_pairs: Path, tmp_path: Path) -> None:
    images(own_pairs)[3].unlink()
    shutil.copy(images(own_pairs)[0], images(own_pairs)[0].with_suffix(".tif"))
    reporter = RecordingReporter()
    with pytest.raises(RunError, match=r"2 of 9 good samples that cannot be used.*no infrared image|found 000"):
        fit(own_pairs, None, pair_recipe(), tmp_path / "two", reporter)
    images(own_pairs)[0].with_suffix(".tif").unlink()
    record = fit(own_pairs, None, pair_recipe(), tmp_path / "one", reporter)
    assert len(record.data.train) == 5
    assert [(sample.name, sample.reason) for sample in record.left_out] == [("train/good/003", "missing-file")]
    assert "no infrared image of this sample" in record.left_out[0].message
    assert any("train/good/003" in line for line in reporter.lines)


def test_damaged_second_image_is_left_out_by_name(own_pairs: Path, tmp_path: Path) -> None:
    images(own_pairs)[2].write_bytes(b"no image")
    record = fit(own_pairs, None, pair_recipe(), tmp_path / "run")
    assert [sample.name for sample in record.left_out] == ["train/good/002"]
    assert "infrared/002.png" in record.left_out[0].message


def test_copies_and_links_of_the_inspected_image_are_no_second_images(own_pairs: Path, tmp_path: Path) -> None:
    rgb = images(own_pairs, "rgb")
    thermal = rgb[0].parent.with_name("thermal")
    thermal.mkdir()
    for path in rgb[1:]:
        Image.fromarray(255 - read_rgb(path)).save(thermal / path.name)
    shutil.copy(rgb[0], thermal)
    record = fit(own_pairs, None, pair_recipe(partner="thermal"), tmp_path / "one")
    assert [(sample.name, sample.reason) for sample in record.left_out] == [("train/good/000", "unsupported")]
    assert "thermal/000.png: found the pixels of" in record.left_out[0].message
    shutil.rmtree(thermal)
    thermal.symlink_to("rgb")
    options = ("--partner", "thermal", *OPTIONS)
    ended = command(train_cli, own_pairs, *options, "--view", "sensor", "--out", tmp_path / "all")
    assert_refused(ended, 7, "thermal/000.png", "which is inspected", "--partner")
    assert not (tmp_path / "all/run.json").exists()


def test_copies_of_one_second_image_are_refused(own_pairs: Path, tmp_path: Path) -> None:
    first, *others = images(own_pairs)
    for path in others:
        shutil.copy(first, path)
    options = ("--partner", "infrared", *OPTIONS)
    ended = command(train_cli, own_pairs, *options, "--view", "sensor", "--out", tmp_path / "run")
    assert_refused(ended, 7, "infrared images", "training samples with the same pixels", "--partner")


def test_images_in_folders_without_a_name_are_no_pairs(tmp_path: Path) -> None:
    """In such a folder all images are those of `--modality`, so the same files would be both."""
    for number in range(8):
        Image.fromarray(np.full((64, 64), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
    ended = command(train_cli, tmp_path, "--partner", "infrared", *OPTIONS, "--out", tmp_path.with_name("run"))
    assert_refused(ended, 7, "no infrared images", "folder infrared")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--partner", "xyz"), 7, ("--hallucination f2f without --partner",)),
        (("--partner", "sonar"), 7, ("partner", "sonar", "thermal")),
        (("--partner", "rgb"), 7, ("another image than rgb",)),
        (("--partner", "thermal"), 7, ("no thermal images", "folder thermal")),
        (("--partner", "infrared", "--hallucination", "none"), 7, ("partner", "hallucination f2f")),
        (("--partner", "infrared", "--hallucination", "f2i"), 7, ("partner", "hallucination f2f")),
        (("--partner", "infrared", "--hallucination", "i2f"), 7, ("partner", "hallucination f2f")),
        (("--partner", "infrared", "--mode", "faithful"), 7, ("partner", "mode default")),
        (("--partner", "infrared", "--modality", "xyz"), 7, ("partner", "--modality xyz")),
        (("--partner", "infrared", "--modality", "both"), 7, ("hallucination",)),
        (("--partner", "infrared", "--distil-on", "all"), 7, ("partner", "--distil-on")),
        (("--partner", "infrared", "--parts", 2), 7, ("partner", "--parts")),
        (("--partner", "infrared", "--rgb-mask", "cloud"), 7, ("partner", "--rgb-mask")),
        (("--modality", "infrared"), 7, ("hallucination", "--partner")),
        (("--registered",), 7, ("recipe registered", "--partner")),
        (("--registered", "--hallucination", "none"), 7, ("recipe registered", "--partner")),
    ],
)
def test_what_is_not_built_is_refused(
    pairs: Path, tmp_path: Path, options: tuple[object, ...], code: int, words: tuple[str, ...]
) -> None:
    assert_refused(command(train_cli, pairs, *OPTIONS, *options, "--out", tmp_path / "run"), code, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--family", "trd"), "--partner"),
        (("--family", "patchcore"), "--partner"),
        (("--family", "auto"), "--partner"),
        (("--modality", "any", "--hallucination", "f2f"), "--partner cannot be combined with --modality any"),
        (("--assess-modalities", "--hallucination", "f2f"), "--partner cannot be combined with --assess-modalities"),
    ],
)
def test_commands_without_pairs_refuse_the_option(
    pairs: Path, tmp_path: Path, options: tuple[str, ...], word: str
) -> None:
    ended = command(train_cli, pairs, "--partner", "infrared", *options, "--out", tmp_path / "run")
    assert ended.code == 2, ended.err
    assert word in ended.err


def moved_and_larger(values: np.ndarray) -> np.ndarray:
    """Return the image of an unregistered camera: the part lies at another place and covers fewer pixels."""
    seen = np.full((150, 180), int(np.median(values[:4])), np.uint8)
    half = np.asarray(Image.fromarray(values).resize((84, 84)))
    seen[50:134, 80:164] = half
    return seen


def dark_part(values: np.ndarray) -> np.ndarray:
    return (255 - values).astype(np.uint8)


def test_unregistered_images_are_paired_in_the_view_of_the_part(own_data: Path, tmp_path: Path) -> None:
    add_infrared(own_data, moved_and_larger)
    reporter = RecordingReporter()
    record = fit(own_data, None, pair_recipe(view="auto"), tmp_path / "run", reporter)
    assert record.recipe.view == "part"
    assert record.partner is not None
    assert record.partner.part is not None
    assert record.preprocessing.part is not None
    assert record.partner.part.side < 0.9 * record.preprocessing.part.side  # sensor pixels
    assert any("same place of the part in infrared (--view part)" in line for line in reporter.lines)
    with pytest.raises(RunError, match=r"180×150 pixels, next to 112×112.*--view part"):
        fit(own_data, None, pair_recipe(view="sensor"), tmp_path / "refused")


def test_part_that_is_not_found_in_the_second_image(own_data: Path, tmp_path: Path) -> None:
    add_infrared(own_data, dark_part)
    with pytest.raises(RunError, match=r"no part in \d of 6 infrared images.*add --registered"):
        fit(own_data, None, pair_recipe(view="part"), tmp_path / "refused")
    assert not (tmp_path / "refused" / FILE).exists()
    reporter = RecordingReporter()
    record = fit(own_data, None, pair_recipe(view="auto"), tmp_path / "run", reporter)
    assert record.recipe.view == "sensor"
    assert record.partner is not None
    assert record.partner.view == record.preprocessing.view == "sensor"
    assert "infrared images" in record.view.because
    assert any("must be registered (--view sensor)" in line for line in reporter.lines)
    assert fit(own_data, None, pair_recipe(view="auto"), tmp_path / "run").status == "complete"


def test_registered_images_may_differ_in_size(own_data: Path, tmp_path: Path) -> None:
    add_infrared(own_data, lambda values: np.asarray(Image.fromarray(values).resize((56, 56))))
    assert fit(own_data, None, pair_recipe(), tmp_path / "run").status == "complete"


@pytest.mark.parametrize(
    "changes",
    [
        {"main_bank": "enhanced", "residual_map": "cycle"},
        {"uncertainty": "bank"},
        {"distillation": {"context": 3, "coordinates": "cell", "targets": "stages", "alignment": 0.1}},
    ],
)
def test_options_of_f2f_work_with_pairs(pairs: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = pair_recipe()
    if "distillation" in changes:
        changes = {"distillation": replace(bank_part(recipe).distillation, **changes["distillation"])}
    fit(pairs, None, pair_recipe(**changes), tmp_path / "run")
    detector = load_run(tmp_path / "run").detector
    image = torch.from_numpy(np.asarray(Image.open(images(pairs, "rgb")[0]).convert("RGB")).copy())[None]
    assert bool(detector(image)[1].isfinite().all())


def in_place(main: str = "rgb", **changes: Any) -> Any:
    """Return a recipe of registered pairs in the view of the part."""
    return pair_recipe(main, "rgb" if main == "infrared" else "infrared", registered=True, view="part", **changes)


@pytest.fixture(scope="module")
def dark_pairs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Registered pairs whose second image shows the part darker than its support."""
    return add_infrared(Path(shutil.copytree(data, tmp_path_factory.mktemp("dark") / "data")), dark_part)


@pytest.fixture(scope="module")
def followed(dark_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the camera in the view of the part, trained with registered infrared."""
    folder = tmp_path_factory.mktemp("followed") / "run"
    fit(dark_pairs, None, in_place(), folder)
    return folder


@pytest.fixture(scope="module")
def seen(followed: Path) -> Preprocessing:
    """Return the preprocessing that the run `followed` records for the second image, with the colour of a camera."""
    partner = read_record(followed).partner
    assert partner is not None
    return replace(partner, colour="rgb", image_modality="rgb")


def view_of(image: RgbImage, main: RgbImage, seen: Preprocessing) -> np.ndarray:
    """Return the network input `[112, 112, 3]` of an image that is registered with the inspected image `main`."""
    drawn: np.ndarray = cut_out_like(Sample("main", rgb=main), Sample("image", rgb=image), seen).inputs["rgb"][0]
    return drawn


def ramp(height: int, width: int) -> RgbImage:
    """Return an image whose pixels encode their place in 112 × 112 pixels: two grey levels per column and row."""
    down, right = np.meshgrid(*((np.arange(n) + 0.5) * 224 / n for n in (height, width)), indexing="ij")
    return np.rint(np.dstack([right, down, np.full_like(down, 90)])).astype(np.uint8)


def test_copy_of_the_inspected_image_is_prepared_like_it(dark_pairs: Path, seen: Preprocessing) -> None:
    main = read_rgb(images(dark_pairs, "rgb")[1])
    own = prepare(Sample("main", rgb=main), seen).inputs["rgb"][0]
    np.testing.assert_array_equal(view_of(main, main, seen), own)
    for other in (np.roll(main, 5, axis=1), np.rot90(main), main[::-1]):
        moved = view_of(np.ascontiguousarray(other), main, seen)
        assert np.abs(moved.astype(int) - own).mean() > 3
        np.testing.assert_array_equal(moved.any(axis=2), own.any(axis=2))  # the outline of the inspected image


@pytest.mark.parametrize("pixels", [112, 56, 224])
def test_registered_image_is_cut_out_with_the_pose_of_the_inspected_one(
    dark_pairs: Path, seen: Preprocessing, pixels: int
) -> None:
    """Compare the place of each pixel of the cut-out with the place that the pose of the inspected part gives.

    Two channels of the second image contain the column and the row of each pixel.
    """
    assert seen.part is not None
    turns = []
    for path in images(dark_pairs, "rgb"):
        main = read_rgb(path)
        prepared = prepare(Sample("main", rgb=main), seen)
        drawn = view_of(ramp(pixels, pixels), main, seen)
        pose = prepared.places[0].pose  # type: ignore[union-attr]
        turns.append(abs(np.sin(pose.angle)))
        offset = (np.arange(112) - 55.5) * seen.part.side / 112
        right, down = np.meshgrid(offset, offset)
        cos, sin = np.cos(pose.angle), np.sin(pose.angle)
        column, row = pose.x + cos * right - sin * down, pose.y + sin * right + cos * down
        expected = np.dstack([2 * column + 1, 2 * row + 1])
        inner = scipy.ndimage.binary_erosion(prepared.inputs["rgb"][0].any(axis=2), iterations=4)
        assert inner.sum() > 1000
        assert np.abs(drawn[inner][:, :2] - expected[inner]).max() < 3
    assert max(turns) > 0.05


def test_record_has_the_pose_of_the_inspected_image_for_both(followed: Path) -> None:
    record = read_record(followed)
    assert record.partner is not None
    assert record.partner.part is not None
    assert record.partner.colour == "grey"
    assert record.partner == replace(record.preprocessing, colour="grey", image_modality="infrared")


def test_inspected_image_alone_chooses_the_view_of_registered_pairs(dark_pairs: Path, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    record = fit(dark_pairs, None, replace(in_place(), view="auto"), tmp_path / "bright", reporter)
    assert record.recipe.view == "part"
    assert any("cut out like rgb (--registered)" in line for line in reporter.lines)
    recipe = replace(in_place("infrared"), view="auto")
    record = fit(dark_pairs, None, recipe, tmp_path / "dark", reporter)
    assert record.recipe.view == "sensor"
    assert record.partner is not None
    assert record.partner.view == "sensor"
    assert "rgb images" not in record.view.because


def test_features_of_registered_pairs_are_of_the_same_places(data: Path, tmp_path: Path) -> None:
    """Images like the inspected ones have their principal components; turned images, whose part is found, do not."""
    bases = {}
    for turn in (0, 2):
        own, run = Path(shutil.copytree(data, tmp_path / f"data-{turn}")), tmp_path / f"run-{turn}"
        (own / "gear/train/good/albedo").mkdir()
        for path in images(own, "rgb"):
            turned = np.rot90(read_rgb(path), turn).copy()
            turned[0, 0, 0] ^= 1  # outside of the part; a copy of the inspected image is refused
            Image.fromarray(turned).save(path.parent.with_name("albedo") / path.name)
        fit(own, None, pair_recipe(partner="albedo", registered=True, view="part"), run)
        bases[turn] = [load_tensors(run / f"projection-{source}.safetensors")["basis"] for source in ("rgb", "partner")]
    assert torch.equal(*bases[0])
    own_basis, turned_basis = (basis.abs() for basis in bases[2])
    assert not torch.allclose(own_basis, turned_basis, atol=1e-2)


def test_mask_hides_the_same_region_of_both_registered_images(dark_pairs: Path, tmp_path: Path) -> None:
    ignored = np.zeros((112, 112), dtype=np.bool_)
    ignored[:, :50] = True
    mask = FitOptions(mask=InspectionMask(Path("m.png"), ignored))
    record = fit(dark_pairs, None, in_place(), tmp_path / "run", options=mask)
    assert record.partner is not None
    assert record.partner.ignored is not None
    assert record.partner.ignored == record.preprocessing.ignored
    main = read_rgb(images(dark_pairs, "rgb")[0])
    shown = view_of(main, main, replace(record.partner, colour="rgb", image_modality="rgb"))
    assert not shown[record.partner.ignored.array[0]].any()
    assert shown.any()


def test_view_of_the_sensor_pairs_registered_images_as_before(pairs: Path, run: Path, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    fit(pairs, None, pair_recipe(registered=True), tmp_path / "run", reporter)
    assert hashes(tmp_path / "run") == hashes(run)
    assert any("which are registered (--view sensor)" in line for line in reporter.lines)


@pytest.mark.parametrize("view", ["part", "sensor"])
def test_registered_images_have_one_aspect_ratio(own_data: Path, tmp_path: Path, view: str) -> None:
    add_infrared(own_data, moved_and_larger)
    with pytest.raises(RunError, match=r"180×150 pixels, next to 112×112.*without --registered"):
        fit(own_data, None, pair_recipe(registered=True, view=view), tmp_path / "refused")


@pytest.mark.parametrize(("step", "done"), [("prepare infrared images", 3), ("extract partner features", 2)])
def test_interrupted_training_of_registered_pairs_goes_on_to_the_same_bytes(
    dark_pairs: Path, followed: Path, tmp_path: Path, step: str, done: int
) -> None:
    again = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(dark_pairs, None, in_place(), again, InterruptAt(step, done))
    assert fit(dark_pairs, None, in_place(), again).status == "complete"
    assert hashes(again) == hashes(followed)
    assert read_record(again).partner == read_record(followed).partner


def test_registered_pairs_are_another_training(dark_pairs: Path, followed: Path, tmp_path: Path) -> None:
    again, other = Path(shutil.copytree(followed, tmp_path / "run")), pair_recipe(view="part")
    with pytest.raises(OutputError, match="registered False instead of True"):
        fit(dark_pairs, None, other, again)
    with pytest.raises(RunError, match="another registered"):
        take_over(followed, tmp_path / "other", other)


def test_store_keeps_features_of_a_registered_image_for_each_inspected_image(dark_pairs: Path, tmp_path: Path) -> None:
    """Two inspected images change places: what is learnt from all of them stays, the poses of two pairs do not."""
    own = Path(shutil.copytree(dark_pairs, tmp_path / "data"))
    shared = FitOptions(features=tmp_path / "store")
    first = fit(own, None, in_place(), tmp_path / "first", options=shared)
    *_, one, other = images(own, "rgb")
    swapped = other.read_bytes(), one.read_bytes()
    for path, content in zip((one, other), swapped, strict=True):
        path.write_bytes(content)
    second = fit(own, None, in_place(), tmp_path / "second", options=shared)
    assert first.partner == second.partner
    fit(own, None, in_place(), tmp_path / "alone")
    assert hashes(tmp_path / "second") == hashes(tmp_path / "alone")
    assert hashes(tmp_path / "second")[NETWORK] != hashes(tmp_path / "first")[NETWORK]


def test_judged_parts_without_a_second_image_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "parts/good/rgb").mkdir(parents=True)
    ended = command(train_cli, "--from-run", run, "--candidate", tmp_path, "--out", tmp_path / "again")
    assert_refused(ended, 7, "judged parts without infrared images", "train a new run")
