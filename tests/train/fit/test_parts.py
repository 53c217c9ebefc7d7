"""`--parts N`: several equal parts per picture, from training to verdict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cmdiad import Inspector, Sample
from cmdiad_bench import cli as bench
from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.options import ExportOptions
from cmdiad_export.search.held_out import HeldOut
from cmdiad_export.search.smaller_banks import with_smaller_banks
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.cli import train
from cmdiad_train.detectors.bank.memory_bank import MemoryBank
from cmdiad_train.detectors.family import worst_of_parts
from cmdiad_train.fit import export_inputs
from cmdiad_train.fit.fit import fit
from cmdiad_train.fit.splits import Splits, split
from cmdiad_train.recipe import SMALL_NORMALS, SMALL_RGB, Recipe, RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.run import Run, load_held_out, load_run
from cmdiad_train.runs.stored_samples import StoredSample
from helpers import assert_refused, command, tiny_recipe
from lanes import long
from trays import FURTHER, PLACES, SIDE, Tray, make_trays, tray, write_tray

NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14, SMALL_NORMALS.backbone.weights))
IMAGES = RgbExtractor("resnet10t", (0, 1), 14, SMALL_RGB.weights)
COUNT = {"rgb": 4, "xyz": 3, "both": 3}
VIEW = {"rgb": "part", "xyz": "top", "both": "each"}


def recipe_of(modality: str, **changes: object) -> Recipe:
    options: dict[str, object] = {
        "rgb": IMAGES,
        "xyz": NORMALS,
        "parts": COUNT[modality],
        "view": "auto",
        "coreset": 0.1,
    }
    return tiny_recipe(modality, **{**options, **changes})


@pytest.fixture(scope="module")
def trays(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {count: make_trays(tmp_path_factory.mktemp("trays") / "data", count=count) for count in (3, 4)}


@pytest.fixture(scope="module", params=[long("rgb"), long("xyz"), "both"])
def run(request: pytest.FixtureRequest, trays: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / request.param
    fit(trays[COUNT[request.param]], None, recipe_of(request.param), folder)
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / f"{run.name}.cmdiad"
    write_bundle(load_run(run), folder, ExportOptions("fp32"), SILENT)
    return folder


def sample_of(drawn: Tray) -> Sample:
    return Sample("tray", rgb=drawn.rgb, xyz=drawn.xyz)


def test_a_run_records_parts_and_one_score_per_sample(run: Path) -> None:
    record = read_record(run)
    assert record.preprocessing.view == VIEW[run.name]
    assert record.recipe.parts == record.preprocessing.parts == COUNT[run.name]
    assert json.loads((run / "run.json").read_text())["recipe"]["parts"] == COUNT[run.name]
    loaded = load_run(run)
    assert len(record.data.held_out) == 4
    assert loaded.calibration.samples == 4 + len(record.data.train) == 4 + 6
    held_out = load_held_out(run)
    assert len(held_out) == 2 * 4 * COUNT[run.name]  # good and tampered
    assert len(loaded.golden) == 8
    assert record.metrics is not None
    assert record.metrics["image_auroc"] == 1
    assert record.metrics["pixel_auroc"] > 0.95


def test_held_out_scores_are_those_of_the_worst_part(run: Path) -> None:
    loaded = load_run(run)
    good = [sample for sample in load_held_out(run) if not sample.tampered]
    expected = np.reshape([score_of(loaded, sample) for sample in good], (4, COUNT[run.name])).max(axis=1)
    np.testing.assert_allclose(loaded.calibration.held_out_scores[:4], expected, rtol=1e-4)


def test_a_tampered_copy_of_every_part_scores_higher(run: Path) -> None:
    loaded = load_run(run)
    scores = {sample.name: score_of(loaded, sample) for sample in load_held_out(run)}
    for name, score in scores.items():
        if name.endswith("-tampered"):
            assert score > loaded.calibration.score_threshold, name
            assert score > scores[name.replace("-tampered", "-good")], name


@torch.no_grad()
def score_of(run: Run, sample: StoredSample) -> float:
    """The largest value of the map of one part over the image of the sensor, which decides."""
    _, anomaly_map = run.detector(*sample.inputs_of(run.detector.input_names).values())
    return float(sample.over_sensor(anomaly_map.numpy()).max())


def test_the_worst_part_decides_and_its_place_is_marked(bundle: Path) -> None:
    count = COUNT[bundle.stem]
    with Inspector.open(bundle) as inspector:
        good = inspector.inspect(sample_of(tray(7001, places=PLACES[:count])))
        assert (good.verdict, good.reason) == ("OK", None)
        for scratched in range(count):
            drawn = tray(7001, places=PLACES[:count], scratched=scratched)
            inspection = inspector.inspect(sample_of(drawn))
            assert (inspection.verdict, inspection.reason) == ("NG", "score")
            heat = inspection.heatmap()
            hottest = np.unravel_index(int(heat.argmax()), heat.shape)
            row, column = np.argwhere(drawn.defect).mean(axis=0)
            assert np.hypot(hottest[0] - row, hottest[1] - column) < 12
            others = [place for i, place in enumerate(drawn.centres) if i != scratched]
            assert all(heat[int(r), int(c)] < inspection.map_threshold for r, c in others)
            assert inspection.overlay().shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("kind", ["missing", "additional", "empty"])
@pytest.mark.failure_mode("A tray with a part too few or too many (`--parts`)")
def test_another_number_of_parts_is_never_ok(bundle: Path, kind: str) -> None:
    places = PLACES[: COUNT[bundle.stem]]
    places = {"missing": places[1:], "additional": [*places, FURTHER], "empty": []}[kind]
    with Inspector.open(bundle) as inspector:
        inspection = inspector.inspect(sample_of(tray(7002, places=places)))
    assert (inspection.verdict, inspection.inspected) == ("NG", False)
    # The checks of the recording conditions come first: an empty tray is darker, or has another share of points.
    assert inspection.reason == "part-count" or kind != "missing", inspection.message


@pytest.mark.failure_mode("A small object between the parts of a tray")
def test_an_object_too_small_for_a_part_is_reported(bundle: Path) -> None:
    drawn = tray(7001, places=PLACES[: COUNT[bundle.stem]])
    drawn.rgb[75:85, 75:85] = 200
    drawn.xyz[75:85, 75:85, 2] -= 0.012
    with Inspector.open(bundle) as inspector:
        inspection = inspector.inspect(sample_of(drawn))
    assert (inspection.verdict, inspection.reason, inspection.inspected) == ("NG", "outside", True)


def test_commands_work_with_parts(bundle: Path, trays: dict[int, Path], tmp_path: Path) -> None:
    count = COUNT[bundle.stem]
    data = trays[count]
    assert command(run_cli.cli, bundle, "--self-test").code == 0
    inputs = tmp_path / "inputs"
    write_tray(inputs, "good", tray(7001, places=PLACES[:count]))
    write_tray(inputs, "missing", tray(7002, places=PLACES[1:count]))
    ended = command(run_cli.cli, bundle, inputs, "--output", tmp_path / "out")
    verdicts = [line.split("\t")[0] for line in ended.out.splitlines()]
    assert sorted(verdicts) == ["NG", "OK"]
    results = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert sorted(str(result["reason"]) for result in results) == ["None", "part-count"]
    for name, options in (("accuracy", (bundle, data)), ("report", (data, bundle, "--out", tmp_path / "report"))):
        ended = command(bench.cli, name, *options)
        assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "report" / "report.json").read_text())["classes"][0]["parts"] == count
    assert "Parts in a picture" in (tmp_path / "report" / "report.html").read_text()
    ended = command(bench.cli, "latency", bundle, data / "tray" / "test" / "good", "--runs", 2)
    assert ended.code == 0, ended.err


def test_smaller_banks_are_calibrated_per_sample(run: Path) -> None:
    loaded = load_run(run)
    held_out = HeldOut.of(loaded.detector, load_held_out(run))  # type: ignore[arg-type]
    (smaller,) = with_smaller_banks(loaded, held_out, [0.05]).values()
    assert smaller.calibration.samples == 4


def test_leaving_a_sample_out_leaves_all_its_parts_out(
    trays: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[int] = []
    exchanged = MemoryBank.exchanged

    def recorded(bank: MemoryBank, kept: torch.Tensor, added: torch.Tensor, weights: torch.Tensor | None) -> MemoryBank:
        removed.append(int((~kept).sum()))
        return exchanged(bank, kept, added, weights)

    monkeypatch.setattr(MemoryBank, "exchanged", recorded)
    fit(trays[3], None, recipe_of("rgb", parts=3, coreset=None), tmp_path / "run")
    rows = len(load_run(tmp_path / "run").detector.searches[0].rows)  # type: ignore[attr-defined]
    assert len(removed) == 6
    assert sum(removed) == rows
    assert load_run(tmp_path / "run").calibration.samples == 4 + 6


def test_a_wrong_number_of_parts_is_refused_before_training(trays: dict[int, Path], tmp_path: Path) -> None:
    refused = command(train.cli, trays[4], "--parts", 3, "--size", 112, "--out", tmp_path / "run")
    assert_refused(refused, 7, "--parts 3", "4 parts", "3 equal parts")
    refused = command(train.cli, trays[4], "--parts", 3, "--view", "part", "--size", 112, "--out", tmp_path / "other")
    assert refused.code == 7
    assert "4 parts" in refused.error
    assert not list((tmp_path / "run").glob("*.json"))


def test_parts_need_a_view_of_each_part(trays: dict[int, Path], tmp_path: Path) -> None:
    refused = command(train.cli, trays[4], "--parts", 4, "--view", "sensor", "--out", tmp_path / "run")
    assert_refused(refused, 7, "parts", "--view sensor", "--view part (image), top (cloud) or each (both)")
    options = ("--parts", 4, "--modality", "xyz", "--no-foreground", "--view", "top", "--out", tmp_path / "run")
    assert_refused(command(train.cli, trays[4], *options), 7, "--no-foreground")
    assert not (tmp_path / "run").exists()


def test_the_number_of_parts_belongs_to_the_recipe(run: Path, trays: dict[int, Path]) -> None:
    count = COUNT[run.name]
    options = ("--parts", count + 1, "--modality", run.name, "--out", run)
    assert_refused(command(train.cli, trays[count], *options), 6, run, "another recipe or other data")


def test_the_worst_part_of_each_sample() -> None:
    assert worst_of_parts([1.0, 3.0, 2.0, 0.0, 5.0, 4.0], 3) == [3.0, 5.0]
    assert worst_of_parts([1.0, 3.0], 1) == [1.0, 3.0]
    with pytest.raises(AssertionError):
        worst_of_parts([1.0, 2.0, 3.0], 2)


def test_samples_for_export_show_different_parts(trays: dict[int, Path]) -> None:
    from cmdiad_train.datasets import open_category
    from cmdiad_train.detectors.registry import family_of

    recipe = recipe_of("rgb")
    splits: Splits = split(open_category(trays[4], None), recipe, family_of("bank")).by_part(4)
    assert [files.part for files in splits.train[:5]] == [0, 1, 2, 3, 0]
    golden, quantisation = export_inputs.golden_samples(splits), export_inputs.quantisation_samples(splits)
    for chosen in (golden, quantisation):
        assert [files.part for files in chosen] == [0, 1, 2, 3]
        assert len({files.name for files in chosen}) == 4
    assert len(export_inputs.measured_samples(splits)) == 16
