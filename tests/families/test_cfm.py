"""Crossmodal feature mapping goes through all commands with both sensors, and compares nothing where no point is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmdiad_bench import cli as bench
from cmdiad_export import cli as export
from cmdiad_runtime.cli import info, threshold
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.readers import read_xyz
from cmdiad_train.cli import train
from cmdiad_train.detectors.cell_maps import marked_cells
from cmdiad_train.detectors.cfm.detector import CrossmodalMapping
from cmdiad_train.detectors.cfm.features import CellFeatures, Extractors
from cmdiad_train.detectors.cfm.fitting.features import features_digest
from cmdiad_train.detectors.cfm.fitting.fit import require_error
from cmdiad_train.detectors.cfm.fitting.training import centre_targets
from cmdiad_train.detectors.cfm.mappings import Mappings, mapping_loss, residual
from cmdiad_train.detectors.cfm.run_files import EXTRACTORS, MAPPINGS
from cmdiad_train.fit.fit import fit
from cmdiad_train.recipe import CfmRecipe, Recipe, RgbExtractor, cfm_part
from cmdiad_train.runs.run import load_run
from helpers import Ended, assert_refused, command, write_cloud
from reporters import InterruptAt

SIZE = 64
GRID = 8
SMALL = ("--rgb-backbone", "test_resnet", "--rgb-grid", GRID, "--size", SIZE, "--batch", 4)
BACKBONE = RgbExtractor("test_resnet", (1, 2), GRID)


def train_on(data: Path, out: Path, *further: object) -> Ended:
    options = ("--family", "cfm", "--modality", "both", "--epochs", 2, *SMALL, *further, "--out", out)
    return command(train.cli, data, *options)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "cfm"
    ended = train_on(data, out)
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "cfm.cmdiad"
    ended = command(export.cli, run, "--out", out)
    assert ended.code == 0, ended.err
    return out


def tiny_recipe(**changes: Any) -> Recipe:
    part = CfmRecipe(BACKBONE, BACKBONE, **changes)
    return Recipe(part, modality="both", size=SIZE, view="top")


def detector(kept: Tensor | None = None) -> CrossmodalMapping:
    recipe = tiny_recipe()
    extractors = Extractors(recipe)
    torch.manual_seed(0)
    return CrossmodalMapping(recipe, extractors, Mappings(extractors.xyz.width, extractors.rgb.width, 1.0), kept)


def sample() -> tuple[Tensor, Tensor]:
    """An image of normals with a part in the middle, and a photo."""
    generator = torch.Generator().manual_seed(1)
    surface = torch.zeros(1, SIZE, SIZE, 3)
    surface[:, 16:48, 16:48] = torch.rand(1, 32, 32, 3, generator=generator) * 200 + 20
    return surface, torch.randint(0, 256, (1, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)


def test_a_run_loads_and_names_both_extractors(run: Path) -> None:
    loaded = load_run(run)
    assert cfm_part(loaded.recipe).epochs == 2
    assert loaded.preprocessing.view == "top"
    assert loaded.detector.input_names == ["surface", "rgb"]
    assert set(loaded.record.provenance) == {"xyz", "rgb"}
    assert not list(run.glob("*checkpoint*"))
    shown = command(info.cli, run)
    assert shown.code == 0 and "both, cfm" in shown.out, shown.err


def test_a_bundle_inspects_takes_a_threshold_and_is_measured(bundle: Path, data: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["recipe"]["family"], manifest["recipe"]["modality"]) == ("cfm", "both")
    assert command(run_cli.cli, bundle, "--self-test").code == 0
    ended = command(run_cli.cli, bundle, data / "gear/test/good", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["score"] > 0 for line in lines)
    assert command(threshold.cli, bundle, "--score", 1e6).code == 0
    assert command(threshold.cli, bundle, "--reset").code == 0
    ended = command(bench.cli, "accuracy", bundle, data, "--json", tmp_path / "accuracy.json")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "accuracy.json").read_text())["family"] == "cfm"


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp16", "int8-cpu"])
def test_reduced_precisions_are_certified(run: Path, tmp_path: Path, precision: str) -> None:
    ended = command(export.cli, run, "--precision", precision, "--out", tmp_path / "small.cmdiad")
    assert ended.code == 0, ended.err
    assert command(run_cli.cli, tmp_path / "small.cmdiad", "--self-test").code == 0


def test_a_sample_without_its_cloud_is_not_ok(bundle: Path, data: Path, tmp_path: Path) -> None:
    for folder in ("rgb", "xyz"):
        (tmp_path / folder).mkdir()
    photo = data / "gear/test/good/rgb/000.png"
    (tmp_path / "rgb/000.png").write_bytes(photo.read_bytes())
    write_cloud(tmp_path / "xyz/000.tiff", np.zeros((112, 112, 3), dtype=np.float32))
    ended = command(run_cli.cli, bundle, tmp_path, "--output", tmp_path / "out")
    (line,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert ended.code == 3
    assert (line["verdict"], line["score"]) == ("NG", None)


@pytest.mark.parametrize("side", [12, 24])
def test_a_hole_in_the_cloud_of_a_part_is_not_ok(bundle: Path, data: Path, tmp_path: Path, side: int) -> None:
    """Cells without a point have no value, so the envelope must refuse what they could hide."""
    for folder in ("rgb", "xyz"):
        (tmp_path / folder).mkdir()
    (tmp_path / "rgb/000.png").write_bytes((data / "gear/test/good/rgb/000.png").read_bytes())
    points = read_xyz(data / "gear/test/good/xyz/000.tiff")
    heights = points[..., 2]
    support = np.median(heights[heights != 0])
    row, column = np.argwhere((heights != 0) & (np.abs(heights - support) > 0.002)).mean(0).astype(int)
    points[row - side // 2 : row + side // 2, column - side // 2 : column + side // 2] = 0
    write_cloud(tmp_path / "xyz/000.tiff", points)
    command(run_cli.cli, bundle, tmp_path, "--output", tmp_path / "out")
    (line,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert line["verdict"] == "NG"
    assert line["reason"] != "score"


@pytest.mark.long
def test_an_interrupted_training_ends_with_the_same_files(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdiad_train.detectors.network_training.CHECKPOINT_SECONDS", 0)
    recipe, again = load_run(run).recipe, tmp_path / "again"
    for step, done in (("extract features", 3), ("train mappings", 1), ("calibrate threshold", 1)):
        with pytest.raises(KeyboardInterrupt):
            fit(data, None, recipe, again, InterruptAt(step, done))
    fit(data, None, recipe, again)
    for name in (EXTRACTORS, MAPPINGS, "calibration.json"):
        assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_stored_features_are_those_of_the_same_stages_and_grid() -> None:
    digests = []
    for stages, grid in (((1, 2), 8), ((1, 2), 8), ((1, 2), 4), ((0, 2), 8)):
        backbone = RgbExtractor("test_resnet", stages, grid)
        recipe = Recipe(CfmRecipe(backbone, backbone), modality="both", size=SIZE, view="top")
        digests.append(features_digest(Extractors(recipe), recipe))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_stored_features_are_those_of_the_same_layers() -> None:
    """Layers 1,4 and 4 run the same blocks, so the weights alone do not tell them apart."""
    digests = set()
    for layers in ((), (4,), (1, 4)):
        backbone = RgbExtractor("test_vit", (), None, layers=layers)
        recipe = Recipe(CfmRecipe(backbone, backbone), modality="both", size=SIZE, view="top")
        digests.add(features_digest(Extractors(recipe), recipe))
    assert len(digests) == 3


def test_the_map_is_the_product_of_both_residuals_where_points_are() -> None:
    model, (surface, image) = detector(), sample()
    values = model.cell_values(surface, image).double()
    measured = model.extractors(surface, image)
    predicted = model.mappings(measured)
    unit = [rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (*predicted, *measured)]
    expected = (unit[0] - unit[2]).norm(dim=1) * (unit[1] - unit[3]).norm(dim=1)
    on_part = torch.zeros(GRID, GRID, dtype=torch.bool)
    on_part[2:6, 2:6] = True
    assert torch.equal(model.extractors.cells_with_points(surface).reshape(GRID, GRID), on_part)
    torch.testing.assert_close(values, expected * on_part.flatten(), rtol=1e-4, atol=1e-6)
    score, anomaly_map = model(surface, image)
    assert anomaly_map.shape == (SIZE, SIZE)
    assert float(score) == float(anomaly_map.max()) > 0


def test_a_region_without_points_scores_nothing_whatever_the_image_shows() -> None:
    model, (surface, image) = detector(), sample()
    empty = model(torch.zeros_like(surface), image)
    assert float(empty[0]) == 0 and not empty[1].any()


def test_ignored_pixels_decide_nothing() -> None:
    kept = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    kept[:, :32] = False
    model, (surface, image) = detector(kept), sample()
    _, anomaly_map = model(surface, image)
    assert not anomaly_map[:32].any() and anomaly_map[32:].any()
    cells = marked_cells(kept[0], GRID)
    assert not model.cell_values(surface, image)[~cells].any()


def test_residual_and_loss_do_not_depend_on_magnitude() -> None:
    a, b = (torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(residual(7 * a, b), residual(a, 3 * b))
    torch.testing.assert_close(residual(a, -a), torch.full((5,), 2.0))
    assert torch.equal(residual(torch.zeros(5, 4), torch.zeros(5, 4)), torch.zeros(5))
    cosines = nn.functional.cosine_similarity(a, b)
    loss = mapping_loss(CellFeatures(a, 2 * a), CellFeatures(b, b))
    torch.testing.assert_close(loss, 2 * (1 - cosines.mean()))


def test_targets_are_centred_on_the_features_of_all_samples() -> None:
    class Fixed:
        def __init__(self) -> None:
            generator = torch.Generator().manual_seed(0)
            self.samples = [CellFeatures(*torch.randn(2, n, 3, generator=generator) + 5) for n in (4, 9)]

        def of(self, chosen: list[int]) -> CellFeatures:
            return self.samples[chosen[0]]

    mappings, features = Mappings(3, 3, 1.0), Fixed()
    centre_targets(mappings, features, range(2))  # type: ignore[arg-type]
    for mapping, name in ((mappings.to_xyz, "xyz"), (mappings.to_rgb, "rgb")):
        rows = torch.cat([getattr(sample, name) for sample in features.samples])
        torch.testing.assert_close(mapping.target_mean, rows.mean(0))
        deviation = (rows - rows.mean(0)).square().mean().sqrt()
        torch.testing.assert_close(mapping.target_scale, deviation)


def test_a_detector_that_compares_nothing_is_refused() -> None:
    require_error([0.0, 0.1])
    for peaks in ([0.0, 1e-9], [float("nan")]):
        with pytest.raises(RunError, match="crossmodal mappings: found maps of good samples"):
            require_error(peaks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--modality", "rgb"), ("modality", "both, because image and cloud are compared")),
        (("--view", "each"), ("view", "sensor, top or part")),
    ],
)
def test_impossible_options_end_in_one_line(
    data: Path, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(train_on(data, tmp_path / "run", *options), 7, *words)
    assert not (tmp_path / "run").exists()


def test_the_recipe_round_trips_and_refuses_unlike_extractors() -> None:
    recipe = tiny_recipe(epochs=3)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    with pytest.raises(RunError, match="normals grid"):
        CfmRecipe(BACKBONE, RgbExtractor("test_resnet", (1, 2), GRID * 2))
    with pytest.raises(RunError, match="damaged"):
        Recipe.from_json({**recipe.to_json(), "detector": {**cfm_part(recipe).to_json(), "epochs": 0}})
