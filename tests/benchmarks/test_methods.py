"""`cmdiad-bench methods`: all families in one table, which resumes, names failures and cites published figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cmdiad_bench.cli import cli
from cmdiad_bench.methods import measure
from cmdiad_bench.methods.method import Choice, Method, methods_of
from cmdiad_bench.methods.page import render
from cmdiad_bench.methods.published import MEAN, NOT_PUBLISHED, PUBLISHED
from cmdiad_bench.methods.table import as_markdown, comparison, tables_of
from cmdiad_bench.paper.published import CLASSES
from cmdiad_runtime.errors import CertificateError, RunError
from cmdiad_train.detectors.registry import family_names
from helpers import Ended, assert_refused, command
from lanes import long

TINY = {"rgb-backbone": "test_resnet", "size": 64, "epochs": 1, "batch": 4, "coreset": 0.1}
SETTINGS = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
FIGURES = ("image_auroc", "pixel_auroc", "aupro_30", "aupro_10", "aupro_5", "aupro_1")


def compare(data: Path, out: Path, *options: object) -> Ended:
    return command(cli, "methods", data, "--out", out, "--device", "cpu", "--runs", 2, *SETTINGS, *options)


def result(value: float = 0.9, **changes: Any) -> dict[str, Any]:
    return {
        "samples": 10,
        "good": 4,
        "false_rejects": 1,
        "missed_defects": 2,
        **dict.fromkeys(FIGURES, value),
        "image_auroc_by_defect": {"cut": 0.75},
        "intervals": {name: [value - 0.1, value + 0.05] for name in FIGURES},
        "training_seconds": 12.0,
        "latency_ms": {"p50": 20.2, "p99": 31.0},
        "peak_resident_mb": 321.0,
        "graph_mb": 7.25,
        **changes,
    }


@pytest.fixture(scope="module")
def methods(data: Path) -> list[Method]:
    return methods_of(data, Choice(("cfm", "patchcore"), settings={"rgb-backbone": "test_resnet"}))


def test_methods_are_families_with_the_modalities_that_they_inspect(data: Path, methods: list[Method]) -> None:
    assert [method.name for method in methods] == ["cfm-both", "patchcore-rgb", "patchcore-xyz", "patchcore-both"]
    assert [sorted(method.needed) for method in methods] == [["rgb", "xyz"], ["rgb"], ["xyz"], ["rgb", "xyz"]]
    everything = methods_of(data, Choice(settings={"rgb-backbone": "test_resnet"}))
    assert {method.family for method in everything} == {*family_names()}
    twice = methods_of(data, Choice(("cfm", "cfm"), ("both", "both"), settings={"rgb-backbone": "test_resnet"}))
    assert [method.name for method in twice] == ["cfm-both"]
    with pytest.raises(RunError, match="no family that inspects rgb"):
        methods_of(data, Choice(("cfm",), ("rgb",)))


def test_settings_reach_the_families_that_have_them(data: Path) -> None:
    settings = {"rgb-backbone": "test_resnet", "coreset": "0.5", "patchcore.coreset": "0.01", "epochs": "3"}
    chosen = methods_of(data, Choice(("bank", "patchcore", "cfm"), settings=settings))
    parts: dict[str, Any] = {method.name: method.recipe.detector for method in chosen}
    assert (parts["bank-rgb"].coreset, parts["patchcore-rgb"].coreset, parts["cfm-both"].epochs) == (0.5, 0.01, 3)


def test_an_impossible_setting_names_the_method(data: Path) -> None:
    with pytest.raises(RunError, match=r"^trd-rgb, recipe size: found 72. Expected a multiple of 32"):
        methods_of(data, Choice(("bank", "trd"), settings={"rgb-backbone": "test_resnet", "size": "72"}))


@pytest.mark.parametrize(
    ("families", "modality", "sensors"),
    [(["patchcore"], "rgb", "camera"), long(["patchcore", "cfm"], "both", "camera, 3D")],
)
def test_a_comparison_is_measured_once_and_resumes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, families: list[str], modality: str, sensors: str
) -> None:
    names = [f"{family}-{modality}" for family in families]
    out = tmp_path / "methods"
    chosen = (*(part for family in families for part in ("--family", family)), "--modality", modality)
    ended = compare(data, out, *chosen)
    assert ended.code == 0, ended.err
    record = json.loads((out / "methods.json").read_text())
    assert [one["method"] for one in record["methods"]] == names
    for one in record["methods"]:
        measured = one["categories"]["gear"]
        assert measured["latency_ms"]["p99"] >= measured["latency_ms"]["p50"] > 0
        assert measured["peak_resident_mb"] > measured["graph_mb"] > 0
        assert measured["training_seconds"] > 0
        assert measured["samples"] == 5
        assert set(measured["image_auroc_by_defect"]) == {"hole", "contamination"}
    text = (out / "methods.md").read_text()
    assert text.startswith("## gear\n\n| method | sensors | image AUROC |") and f"| {names[-1]} | {sensors} |" in text
    assert f"<td>{names[-1]}</td>" in (out / "methods.html").read_text()

    def refused(*_: object) -> None:
        raise RunError("training", found="a second one", action="None")

    monkeypatch.setattr(measure, "fit", refused)
    assert compare(data, out, *chosen).out == ended.out
    assert len(list((out / "bundles").iterdir())) == len(names)
    other_seed = compare(data, out, *chosen, "--set", "seed=1")
    assert other_seed.code == 7
    assert len(list((out / "bundles").iterdir())) == len(names), "every seed has its own bundles"
    kept = sorted(path for path in out.rglob("*") if path.is_file() and path.suffix != ".txt")
    again = compare(data, out, *chosen, "--set", "patchcore.coreset=0.2")
    assert_refused(
        again, 6, f"patchcore-{modality}, gear with another recipe", "coreset 0.2 instead of 0.1", "methods-2"
    )
    assert sorted(path for path in out.rglob("*") if path.is_file() and path.suffix != ".txt") == kept


def test_a_method_without_a_bundle_keeps_the_figures_of_the_detector(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise CertificateError("graph", found="an operator", action="None")

    monkeypatch.setattr(measure, "write_bundle", refused)
    ended = compare(data, tmp_path / "methods", "--family", "patchcore", "--modality", "rgb")
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "methods/methods.json").read_text())
    measured = record["methods"][0]["categories"]["gear"]
    assert measured["not_exportable"].startswith("graph: found an operator")
    assert 0 <= measured["image_auroc"] <= 1 and "latency_ms" not in measured
    (row,) = tables_of(record)[0].rows
    assert (row["exported"], row["MB"]) == ("no", "–")


def test_the_step_that_remains_is_reported(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier call was interrupted after the training, and the next one after the export."""
    chosen = ("--family", "patchcore", "--modality", "rgb")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def line_of(interrupted_step: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(measure, interrupted_step, interrupted)
            ended = compare(data, tmp_path / "methods", *chosen)
        assert ended.code == 130
        (line,) = (line for line in ended.err.splitlines() if line.startswith("patchcore-rgb, gear, seed 0: "))
        return line.partition(": ")[2]

    assert line_of("write_bundle") == "training"
    assert line_of("measure_latency") == "exporting, the training is finished"
    assert line_of("measure_latency") == "measuring, the bundle exists"


def fail_for(families: set[str], error: BaseException) -> Any:
    def training(root: Path, category: str, recipe: Any, *_: object) -> None:
        raise error if recipe.family in families else RunError("training", found="no error of a program", action="None")

    return training


def test_an_unforeseen_error_is_the_failure_of_one_method(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "methods"
    chosen = ("--family", "cfm", "--family", "dsr3d", "--modality", "both")
    monkeypatch.setattr(measure, "fit", fail_for({"cfm"}, ValueError("shapes (3,)\nand (4,) differ")))
    ended = compare(data, out, *chosen)
    assert ended.code == 7 and "Traceback" not in ended.err
    file = out / "failures/cfm-both-gear-seed0.txt"
    text = f"failed. Unforeseen error: ValueError: shapes (3,) and (4,) differ. The traceback is in {file}."
    assert f"cfm-both, gear, seed 0: {text}" in ended.err
    assert f"cfm-both, gear: {text}" in (out / "methods.md").read_text()
    assert file.read_text().startswith("Traceback") and "in training" in file.read_text()
    assert "dsr3d-both, gear: failed. training: found no error of a program" in (out / "methods.md").read_text()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    monkeypatch.setattr(measure, "_Measurement", lambda *_: SimpleNamespace(result=result))
    assert compare(data, out, *chosen).code == 0
    assert not file.exists()


def test_a_traceback_that_cannot_be_written_stops_no_other_method(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/failures").write_text("a file")
    monkeypatch.setattr(measure, "fit", fail_for({"cfm", "dsr3d"}, OSError(28, "No space left on device")))
    ended = compare(data, tmp_path / "methods", "--family", "cfm", "--family", "dsr3d", "--modality", "both")
    assert ended.code == 7
    assert ended.err.count("No space left on device. The traceback cannot be written: ") == 2


def test_an_interruption_ends_the_comparison_and_leaves_the_tables_of_what_is_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, chosen = tmp_path / "methods", ("--family", "cfm", "--family", "dsr3d", "--modality", "both")
    missing = "Missing: dsr3d-both, gear: not measured yet. Repeat the command to continue."

    def tables(name: str) -> dict[str, str]:
        record = json.loads((out / "methods.json").read_text())
        return {row["method"]: row[name] for row in tables_of(record)[0].rows}

    monkeypatch.setattr(measure, "fit", fail_for({"dsr3d"}, KeyboardInterrupt()))
    assert compare(data, out, *chosen).code == 130
    assert tables("image AUROC") == {"cfm-both": "failed", "dsr3d-both": "missing"}
    text = (out / "methods.md").read_text()
    assert "- cfm-both, gear: failed. " in text and f"- {missing}" in text and text.count("Missing") == 1
    assert f"<li>{missing}</li>" in (out / "methods.html").read_text()


def test_tables_show_means_defects_failures_and_published_figures(methods: list[Method]) -> None:
    results: dict[str, Any] = {method.name: {name: {0: result()} for name in CLASSES} for method in methods}
    results["patchcore-xyz"]["foam"] = {0: {"failed": "no | disk"}}
    results["patchcore-both"]["foam"] = {0: {"lacks": ["xyz"]}}
    record = json.loads(json.dumps(comparison(methods, results, {"epochs": "1"})))
    tables = {table.title: table.rows for table in tables_of(record)}
    mean = tables["Mean over 10 categories"]
    assert mean[0]["image AUROC"].startswith("0.900 [0.868")
    assert mean[2]["image AUROC"] == "–"
    row = tables["bagel"][0]
    assert (row["missed"], row["rejected"], row["ms p50 / p99"]) == ("2 of 6", "1 of 4", "20 / 31")
    assert tables["foam"][2]["image AUROC"] == "failed" and tables["foam"][3]["image AUROC"] == "no xyz in the data"
    assert tables["bagel: image AUROC by defect"][0] == {"method": "cfm-both", "cut": "0.750"}
    published = tables["cable_gland: published and measured"]
    assert [line["method"] for line in published] == ["cfm-both", "patchcore-rgb"]
    assert published[0]["AUPRO@30, published"] == "0.966" and published[0]["AUPRO@30, measured"] == "0.900"
    assert published[1]["AUPRO@30, published"] == "–"
    assert tables["mean: published and measured"][0]["image AUROC, published"] == "0.960"
    assert "epochs 1" in as_markdown(record) and "CVPR 2024" in as_markdown(record)
    assert "Differs with default settings: small CNNs instead of" in as_markdown(record), "--mode faithful differs less"


def test_data_are_escaped_in_the_page(methods: list[Method]) -> None:
    results = {method.name: {"<script>": {0: {"failed": "<b>"}}} for method in methods}
    page = render(comparison(methods, results, {}))
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>" not in page


def test_methods_that_are_not_published_are_labelled(data: Path) -> None:
    chosen = methods_of(data, Choice(("m3dm", "dsr3d"), ("rgb", "xyz"), settings={"rgb-backbone": "test_resnet"}))
    text = as_markdown(comparison(chosen, {method.name: {"gear": {0: result()}} for method in chosen}, {}))
    assert "- m3dm-xyz: one half of the fusion network, a variant of cmdiad that is not published." in text
    assert "- dsr3d-rgb: a recipe of cmdiad that is not published." in text
    assert "- dsr3d-xyz: " not in text
    every = {f"{family}-{modality}" for family in family_names() for modality in ("rgb", "xyz", "both")}
    assert every >= {*NOT_PUBLISHED, *PUBLISHED} and not {*NOT_PUBLISHED} & {*PUBLISHED}


def test_published_means_are_those_of_the_classes() -> None:
    for name, one in PUBLISHED.items():
        for figures in (one.image_auroc, one.pixel_auroc, one.aupro_30):
            if len(figures) > 1:
                mean = sum(figures[category] for category in CLASSES) / len(CLASSES)
                assert figures[MEAN] == pytest.approx(mean, abs=2e-3), name
        assert one.source and one.differs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--family", "crystal-ball"), "'crystal-ball' is not one of bank, trd"),
        (("--set", "epochs"), "is not NAME=VALUE"),
        (("--set", "seed=1", "--seed", 2), "--seed and --set seed=N exclude each other"),
        (("--set", "cfm.seed=1", "--seed", 2), "--seed and --set seed=N exclude each other"),
        (("--seed", -1), "Invalid value for '--seed'"),
        (("--set", "epoch=1"), "Error: Invalid value for '--set': epoch=1: No such option"),
        (("--set", "cfm.patience=x"), "Error: Invalid value for '--set': cfm.patience=x: 'x' is not a valid"),
        (("--set", "variant=rd", "--set", "seed=x"), "Error: Invalid value for '--set': seed=x: 'x' is not a valid"),
        (("--family", "cfm", "--set", "cfm.geometry=depth"), "'--set': cfm.geometry=depth: --geometry is an option of"),
        (("--set", "crystal.epochs=1"), "'crystal' is not one of bank"),
        *((("--set", f"{name}=x"), "is no setting of a comparison") for name in ("modality", "bank.family", "mask")),
    ],
)
def test_wrong_command_lines(data: Path, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    ended = compare(data, tmp_path / "methods", *options)
    assert ended.code == 2
    assert words in " ".join(ended.err.split())
    assert "cmdiad-train" not in ended.err
    assert not (tmp_path / "methods").exists()


def test_data_without_defects_are_refused_before_a_training(own_data: Path, tmp_path: Path) -> None:
    for defect in (own_data / "gear/test").iterdir():
        if defect.name != "good":
            shutil.rmtree(defect)
    ended = compare(own_data, tmp_path / "methods", "--family", "patchcore", "--modality", "rgb")
    assert ended.code == 7
    assert "patchcore-rgb, gear: failed. " in (tmp_path / "methods/methods.md").read_text()
    assert "found no good or no defective test samples" in ended.err
    assert not (tmp_path / "methods/runs").exists() and "training" not in ended.err


def test_data_of_one_sensor_have_the_methods_of_that_sensor(own_data: Path, tmp_path: Path) -> None:
    for folder in [*own_data.rglob("rgb")]:
        shutil.rmtree(folder)
    ended = compare(own_data, tmp_path / "methods", "--family", "cfm", "--family", "patchcore", "--modality", "both")
    assert ended.code == 0, "there is nothing to measure, and nothing failed"
    record = json.loads((tmp_path / "methods/methods.json").read_text())
    assert [one["categories"]["gear"] for one in record["methods"]] == [{"lacks": ["rgb"]}] * 2
    assert ended.out.count("no rgb in the data") == 2


def test_a_comparison_inside_the_data_is_refused(own_data: Path) -> None:
    ended = compare(own_data, own_data / "gear/methods", "--family", "patchcore")
    assert_refused(ended, 6, own_data / "gear/methods", "inside the data set", "--out")
    assert not (own_data / "gear/methods").exists()


def test_a_device_that_does_not_exist_is_one_error(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ended = compare(data, tmp_path / "methods", "--family", "patchcore", "--device", "cuda")
    assert_refused(ended, 7, "cuda")
    assert not (tmp_path / "methods").exists()


def test_unknown_data(tmp_path: Path) -> None:
    assert_refused(compare(tmp_path / "no-data", tmp_path / "methods"), 7, "no-data")
