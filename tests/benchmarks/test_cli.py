"""The command `cmdiad-bench`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cmdiad_bench.cli import cli
from cmdiad_bench.report import report as report_module
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.readers import read_rgb
from cmdiad_runtime.sample import Sample
from cmdiad_train.evaluation.evaluate import METRICS
from cmdiad_train.runs.record import read_record
from cmdiad_train.synthesis import dataset as synthesis
from helpers import assert_refused, command, python, sample_files, truncate

Cached = Callable[..., Path]
STAGES = ("decode", "preprocess", "engine", "map", "post")
LATENCY = {"runs", "ended_by", "files", "pipeline", "total_ms", "stages_ms", "interval_ms", "per_second", "takt"}
COLUMNS = {"mean", "p50", "p90", "p95", "p99", "max"}
MACHINE = {"processor", "cores", "clocks_mhz", "load_1min", "gpus", "python", "versions"}
DESCRIPTION = {"bundle", "modality", "family", "variant", "hallucination", "precision", "banks", "engine", "machine"}


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
def test_latency_of_named_inputs(data: Path, exported: Cached, tmp_path: Path, modality: str) -> None:
    bundle = exported(modality, "none", "fp16")
    inputs = data / "gear" / "test"
    ended = command(cli, "latency", bundle, inputs, "--runs", 3, "--json", tmp_path / "latency.json")
    assert ended.code == 0, ended.err
    figures = json.loads((tmp_path / "latency.json").read_text())
    assert set(figures) == DESCRIPTION | LATENCY | {"not_inspected"}
    assert (figures["runs"], figures["files"]) == (3, 5)
    assert (figures["modality"], figures["hallucination"], figures["precision"]) == (modality, "none", "fp16")
    assert set(figures["stages_ms"]) == {*STAGES}
    for row in (figures["total_ms"], *figures["stages_ms"].values()):
        assert set(row) == COLUMNS
        assert 0 < row["p50"] <= row["p90"] <= row["p95"] <= row["p99"] <= row["max"]
    without_overlay = sum(figures["stages_ms"][stage]["mean"] for stage in STAGES[:-1])
    assert figures["total_ms"]["mean"] == pytest.approx(without_overlay, abs=0.01)
    assert set(figures["machine"]) == MACHINE
    table = ended.out.splitlines()
    assert [line.split()[0] for line in table[2:8]] == ["total", *STAGES]
    assert float(table[-1].split()[0]) == pytest.approx(figures["per_second"], abs=0.01)


def test_latency_without_inputs_draws_its_own(exported: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "DEFAULT_TEST", {"good": 1})
    ended = command(cli, "latency", exported("rgb", "none", "fp16"), "--runs", 1)
    assert ended.code == 0, ended.err
    assert "fp16, 1 runs, one at a time, ms per sample" in ended.out


def test_latency_stops_after_the_time_given(data: Path, exported: Cached, tmp_path: Path) -> None:
    bundle, inputs = exported("rgb", "none", "fp16"), data / "gear" / "test"
    arguments = ("latency", bundle, inputs, "--runs", 1000, "--seconds", 0, "--json", tmp_path / "latency.json")
    assert command(cli, *arguments).code == 0
    assert json.loads((tmp_path / "latency.json").read_text())["runs"] == 1


@pytest.mark.parametrize(("takt", "code", "word"), [(1e-6, 9, "MISSED"), (1e6, 0, "kept")])
@pytest.mark.parametrize("pipeline", [(), ("--pipeline",)])
def test_takt_is_in_the_exit_code(
    data: Path, exported: Cached, takt: float, code: int, word: str, pipeline: tuple[str, ...]
) -> None:
    inputs = data / "gear" / "test"
    ended = command(cli, "latency", exported("rgb"), inputs, "--runs", 3, "--takt-ms", takt, *pipeline)
    assert ended.code == code, ended.err
    assert f"takt of {takt:g} ms {word}: p99 " in ended.out.splitlines()[-1]
    assert ("pipelined" in ended.out) == bool(pipeline)


def test_memory_of_a_bundle(data: Path, exported: Cached, tmp_path: Path) -> None:
    ended = command(cli, "memory", exported("rgb"), data / "gear" / "test", "--json", tmp_path / "memory.json")
    assert ended.code == 0, ended.err
    figures = json.loads((tmp_path / "memory.json").read_text())
    assert f"{figures['opened_mb']:.0f} MB resident once open" in ended.out
    assert figures["peak_resident_mb"] >= figures["opened_mb"] > 0


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
def test_accuracy_of_a_bundle(data: Path, trained: Cached, exported: Cached, tmp_path: Path, modality: str) -> None:
    bundle = exported(modality, "f2f", "fp16")
    ended = command(cli, "accuracy", bundle, data, "--category", "gear", "--json", tmp_path / "accuracy.json")
    assert ended.code == 0, ended.err
    figures = json.loads((tmp_path / "accuracy.json").read_text())
    own = {
        "category",
        "samples",
        "good",
        "held_out_good",
        "without_mask",
        "image_auroc_by_defect",
        "intervals",
        *METRICS,
    }
    verdicts = {"threshold", "false_rejects", "missed_defects", "reasons", "not_inspected"}
    assert set(figures) == DESCRIPTION | own | verdicts
    assert set(figures["intervals"]) == set(METRICS)
    trained_metrics = read_record(trained(modality, "f2f")).metrics
    assert trained_metrics is not None
    for name in ("pixel_auroc", "aupro_30", "aupro_1"):
        assert figures[name] == pytest.approx(trained_metrics[name], abs=0.01)
    assert set(figures["image_auroc_by_defect"]) == {"contamination", "hole"}
    assert f"{figures['missed_defects']} of 3 defects missed" in ended.out


def test_accuracy_counts_verdicts_at_the_threshold(data: Path, exported: Cached, tmp_path: Path) -> None:
    bundle = exported("rgb", "f2f", "fp16")
    assert command(cli, "accuracy", bundle, data, "--json", tmp_path / "a.json").code == 0
    figures = json.loads((tmp_path / "a.json").read_text())
    with Inspector.open(bundle) as inspector:
        verdicts = {
            defect: [
                inspector.inspect(Sample(path.name, rgb=read_rgb(path))).verdict
                for path in sample_files(data, "test", defect, "rgb")
            ]
            for defect in ("good", "hole", "contamination")
        }
    assert figures["false_rejects"] == verdicts["good"].count("NG")
    assert figures["missed_defects"] == (verdicts["hole"] + verdicts["contamination"]).count("OK")


def test_accuracy_reads_the_bundles_modality_alone(own_data: Path, exported: Cached) -> None:
    for folder in list(own_data.glob("gear/*/*/xyz")):
        shutil.rmtree(folder)
    assert command(cli, "accuracy", exported("rgb", "f2f", "fp16"), own_data).code == 0


def test_accuracy_needs_defects(own_data: Path, exported: Cached) -> None:
    shutil.rmtree(own_data / "gear" / "test" / "good")
    without_good = command(cli, "accuracy", exported("rgb"), own_data)
    assert without_good.code == 0 and "good samples that were held out in training" in without_good.err
    for defect in ("hole", "contamination"):
        shutil.rmtree(own_data / "gear" / "test" / defect)
    assert_refused(command(cli, "accuracy", exported("rgb"), own_data), 7, own_data)


def test_bad_inputs_are_named(own_data: Path, exported: Cached, own_bundle: Path, tmp_path: Path) -> None:
    path = truncate(sample_files(own_data, "test", "good", "rgb")[0])
    accuracy = command(cli, "accuracy", exported("rgb"), own_data)
    assert accuracy.code == 0 and str(path) in accuracy.err
    assert_refused(command(cli, "latency", exported("rgb"), path), 3, path)
    assert_refused(command(cli, "latency", tmp_path / "no.cmdiad"), 4, tmp_path / "no.cmdiad")
    truncate(own_bundle / "graph.onnx")
    assert_refused(command(cli, "latency", own_bundle), 4, own_bundle / "graph.onnx")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['cmdiad-bench', 'latency', '--help']\n"
        "from cmdiad_bench.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print([m for m in ('numpy', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "[]"


def test_lines_about_several_bundles_name_the_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = {
        "category": "gear",
        "samples": 4,
        "good": 2,
        "image_auroc": 0.5,
        "pixel_auroc": None,
        "false_rejects": 0,
        "missed_defects": 2,
        "intervals": {"image_auroc": (0.1, 0.9)},
        "not_inspected": {"good": 0, "defects": 0, "reasons": {}},
        "reasons": {"good": {}, "defects": {}},
    }

    def measured(data: Path, bundles: tuple[Path, ...], *_: object) -> dict[str, object]:
        return {"classes": [{**figures, "name": bundle.stem} for bundle in bundles]}

    monkeypatch.setattr(report_module, "write_report", measured)
    both = command(cli, "report", tmp_path, "camera.cmdiad", "cloud.cmdiad", "--out", tmp_path / "report")
    assert [line.split(" samples")[0] for line in both.out.splitlines()[:2]] == ["gear, camera, 4", "gear, cloud, 4"]
    assert "warning: gear, camera: 2 of 2 defects are missed" in both.err
    assert "warning: gear, cloud: 2 of 2 defects are missed" in both.err
    one = command(cli, "report", tmp_path, "camera.cmdiad", "--out", tmp_path / "report")
    assert one.out.startswith("gear, 4 samples")
    assert "warning: gear: 2 of 2" in one.err
