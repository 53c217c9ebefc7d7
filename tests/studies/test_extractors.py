"""The table of extractors: what is trained and timed once, what is reused, and what the table says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.cli.train import cli
from cmdiad_train.datasets import open_category
from cmdiad_train.detectors.bank.recipe_options import idle_options, recipe_from
from cmdiad_train.recipe import RgbExtractor, XyzExtractor, bank_part
from cmdiad_train.runs.run import load_run
from helpers import SIZE, RecordingReporter, command, read_image
from studies import extractors
from studies.__main__ import cli as studies
from studies.extractors import (
    BANK,
    LARGE,
    SMALL,
    STUDENT,
    Bench,
    Configuration,
    Weights,
    configurations,
    cut_out_images,
    markdown,
)
from studies.extractors import SIZE as SIZE_OF_PARTS

TINY = (
    *("--rgb-backbone", "resnet10t", "--rgb-stages", "0,1", "--rgb-grid", "14", "--view", "sensor"),
    *("--size", str(SIZE)),
)
TINY_PAIR = (*TINY, "--xyz", "depth", "--epochs", "1")
RGB = Configuration("rgb-tiny-none", "rgb", "tiny", "none", TINY, random=False)
F2F = Configuration("xyz-tiny-f2f", "xyz", "tiny depth", "f2f", TINY_PAIR)
WEIGHTS = Weights(Path("large"), Path("small"), Path("student"), Path("points"))


@pytest.mark.long
def test_every_detector_is_measured_and_nothing_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, recorder = Bench(data, "gear", tmp_path, 0.05), RecordingReporter()
    rows = bench.measure([RGB, F2F], [4, 5], recorder)
    assert recorder.lines == [
        "rgb-tiny-none, seed 4",
        "xyz-tiny-f2f, seed 4",
        "rgb-tiny-none, latency",
        "xyz-tiny-f2f, latency",
        "xyz-tiny-f2f, seed 5",
    ]
    assert [list(row["metrics"]) for row in rows] == [["4"], ["4", "5"]]
    assert rows[1]["metrics"]["4"] != rows[1]["metrics"]["5"]
    for row, asked in zip(rows, (RGB, F2F), strict=True):
        record = json.loads((tmp_path / "runs" / f"{asked.name}-4" / "run.json").read_text())
        recipe = record["recipe"]
        assert (recipe["modality"], recipe["detector"]["hallucination"]) == (asked.modality, asked.hallucination)
        part = recipe["detector"]
        assert (part["coreset"], part["components"], part["image_score"]) == (1, 256, "max")
        assert row["metrics"]["4"] == record["metrics"]
        assert row["latency"]["modality"] == asked.modality
        assert row["latency"]["total_ms"]["p50"] > 0
    written = json.loads((tmp_path / "extractors.json").read_text())
    assert written["rows"] == rows
    assert (tmp_path / "extractors.md").read_text() == markdown(rows)
    monkeypatch.setattr("cmdiad_train.fit.fit.FitContext", None)
    monkeypatch.setattr("cmdiad_export.cli.cli", None)
    assert bench.measure([RGB, F2F], [4, 5], SILENT) == rows


def row(hallucination: str, latency: dict[str, Any] | None, *aurocs: float) -> dict[str, Any]:
    metrics = {
        str(seed): {
            "image_auroc": value,
            "pixel_auroc": 0.98,
            "aupro_30": 0.9,
            "image_auroc_by_defect": {"hole": value, "bent": 0.5},
        }
        for seed, value in enumerate(aurocs)
    }
    words = {"modality": "xyz", "extractor": "points", "hallucination": hallucination, "view": "sensor"}
    return {**words, "metrics": metrics, "latency": latency}


def test_table_gives_every_seed_and_each_defect() -> None:
    lines = markdown([row("none", None, 0.75), row("f2f", {"total_ms": {"p50": 12.4}}, 0.75, 1.0)]).splitlines()
    assert {line.count("|") for line in lines} == {10}
    assert "| bent / hole |" in lines[0]
    assert lines[2] == "| xyz | points | – | sensor | 0.750 | 0.980 | 0.900 | 0.50 / 0.75 |  |"
    assert lines[3] == ("| xyz | points | rgb | sensor | 0.750 1.000 | 0.980 0.980 | 0.900 0.900 | 0.50 / 0.75 | 12 |")


def test_detectors_have_names_of_their_own_and_what_is_not_drawn_has_one_seed() -> None:
    table = {each.name: each for each in configurations(WEIGHTS)}
    assert len(table) == len(configurations(WEIGHTS)) == 15
    assert {each.seeds((0, 1)) for each in table.values() if not each.random} == {(0,)}
    assert sorted(name for name, each in table.items() if not each.random) == [
        "rgb-mobilenetv2_100-none",
        "rgb-resnet10t-none",
        "rgb-resnetv2_50-none",
    ]


@pytest.mark.parametrize("each", configurations(WEIGHTS), ids=lambda each: each.name)
def test_options_name_what_matters(each: Configuration) -> None:
    """Whatever the defaults are, or will be."""
    what = ("--modality", each.modality, "--hallucination", each.hallucination)
    options = cli.make_context("cmdiad-train", ["data", *what, *BANK, *each.options]).params
    recipe = recipe_from(options, lambda: ())
    part, paired = bank_part(recipe), each.hallucination != "none"
    assert (part.coreset, part.components, part.image_score) == (1, 256, "max")
    assert (
        idle_options(recipe).keys().isdisjoint(option.name for option in cli.params if option.opts[0] in each.options)
    )
    seen = {"xyz-point_mae": (224, 28, "sensor"), "xyz-depth": (320, 40, "sensor")}
    views = {"rgb": "part", "xyz": "top", "both": "each"}
    kind = each.name.rsplit("-", 1)[0].removesuffix("-random").removesuffix("-pretrained")
    size, grid, view = seen.get(kind, (320, 40, views[each.modality]))
    assert (recipe.size, recipe.view) == (size, view)
    reads_image, reads_cloud = each.modality != "xyz" or paired, each.modality != "rgb" or paired
    if not reads_cloud:
        assert "--xyz" not in each.options
    elif isinstance(part.xyz, XyzExtractor):
        assert (part.xyz.grid, part.xyz.weights) == (28, "seeded" if "random" in each.name else "points")
    else:
        assert part.xyz.image == ("depth" if kind == "xyz-depth" else "normals")
        assert part.xyz.backbone == RgbExtractor(LARGE, (1, 2), 40, "large")
    if not reads_image:
        return
    backbone = each.name.split("-")[1] if each.modality == "rgb" else LARGE
    weights = {LARGE: "large", SMALL: "small", STUDENT: "student"}
    assert (part.rgb.backbone, part.rgb.weights) == (backbone, weights[backbone])
    assert (part.rgb.stages, part.rgb.grid) == ((1, 2), grid)


def test_student_learns_from_what_inspection_feeds(data: Path, trained: Any, tmp_path: Path) -> None:
    run = load_run(trained("rgb", view="part", size=SIZE_OF_PARTS))
    cut_out_images(data, "gear", tmp_path / "parts")
    files = open_category(data, "gear").split("train", ("rgb",))
    written = sorted((tmp_path / "parts").iterdir())
    assert len(written) == len(files)
    for path, sample in zip(written, files, strict=True):
        fed = prepare(sample.read("rgb"), run.preprocessing).inputs["rgb"][0]
        assert np.array_equal(read_image(path), fed)


def test_extractors_are_trained_only_for_detectors_that_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(extractors, "cut_out_images", lambda *given: None)
    monkeypatch.setattr(extractors, "_command", lambda cli, *arguments: commands.append(arguments))
    bench = Bench(tmp_path, "gear", tmp_path, 0)
    table = configurations(WEIGHTS)
    bench.train_extractors([each for each in table if "resnetv2_50" in each.name], WEIGHTS, SILENT)
    assert commands == []
    bench.train_extractors(table, WEIGHTS, SILENT)
    assert [command[0] for command in commands] == ["distill", "pretrain"]
    assert [command[-1] for command in commands] == ["student", "points"]


def test_unknown_name_is_refused(tmp_path: Path) -> None:
    weights = ("--large", "l", "--small", "s")
    refused = command(studies, "extractors", tmp_path, "gear", *weights, "--out", tmp_path / "o", "--only", "x")
    assert refused.code == 2
    assert "--only x: not one of rgb-resnetv2_50-none" in refused.err
    assert not (tmp_path / "o").exists()


def test_command_measures_the_selected_detectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], tuple[int, ...]]] = []

    def measure(bench: Bench, chosen: list[Configuration], seeds: tuple[int, ...], _: Any) -> list[dict[str, Any]]:
        assert (bench.data, bench.category, bench.latency_seconds) == (tmp_path, "gear", 8.0)
        calls.append(([detector.name for detector in chosen], seeds))
        return [row("none", None, 0.75)]

    monkeypatch.setattr(Bench, "measure", measure)
    arguments = ("extractors", tmp_path, "gear", "--large", "l", "--small", "s", "--out", tmp_path / "o")
    ended = command(studies, *arguments, "--only", "rgb-resnetv2_50-f2f", "--seed", 4, "--seed", 5)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[2].startswith("| xyz | points |")
    assert command(studies, *arguments, "--only", "rgb-resnetv2_50-none").code == 0
    assert calls == [(["rgb-resnetv2_50-f2f"], (4, 5)), (["rgb-resnetv2_50-none"], (0, 1, 2))]
