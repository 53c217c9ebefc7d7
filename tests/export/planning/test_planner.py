"""The planner on a tiny run: every point is a certified graph that was run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_export import certified
from cmdiad_export.options import ExportOptions
from cmdiad_export.planning import planner
from cmdiad_export.planning.measure import GraphBench, peak_megabytes
from cmdiad_export.planning.plan import Budget
from cmdiad_export.planning.planner import Exported, Planned, make_plan, promising, write_within
from cmdiad_export.search.held_out import HeldOut
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.errors import CertificateError, EngineError, RunError
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.runs.run import load_held_out, load_run
from graphs import cloud_graph, cloud_inputs
from helpers import RecordingReporter

Cached = Callable[..., Path]


@dataclass
class Counts:
    """Numbers of calls while a plan was made."""

    exported: int = 0
    certified: list[str] = field(default_factory=list)
    measured: list[Path] = field(default_factory=list)


@pytest.fixture(scope="module")
def counts() -> Counts:
    return Counts()


@pytest.fixture(scope="module")
def planned(trained: Cached, tmp_path_factory: pytest.TempPathFactory, counts: Counts) -> Planned:
    with pytest.MonkeyPatch.context() as patch:
        export, compare, measure = certified.export_graph, certified.compare, GraphBench.measure

        def counted_export(*arguments: Any) -> None:
            counts.exported += 1
            export(*arguments)

        def counted_compare(engine: Any, precision: Any, *arguments: Any) -> Any:
            counts.certified.append(precision)
            return compare(engine, precision, *arguments)

        def counted_measure(self: GraphBench, graphs: Any, reporter: Any) -> Any:
            counts.measured += [path for path, _ in graphs]
            return measure(self, graphs, reporter)

        patch.setattr(certified, "export_graph", counted_export)
        patch.setattr(certified, "compare", counted_compare)
        patch.setattr(GraphBench, "measure", counted_measure)
        patch.setattr(planner, "MOST_REDUCED", 1)
        run = load_run(trained("rgb"))
        return make_plan(run, tmp_path_factory.mktemp("plan"), SILENT, shares=(0.05,))


def test_each_graph_is_exported_certified_and_measured_once(planned: Planned, counts: Counts) -> None:
    forms = [point.form for point in planned.plan.points]
    single = sum(form.precision == "fp32" for form in forms)
    assert planned.plan.points[single:]
    assert counts.exported == counts.certified.count("fp32") == single
    assert len(set(counts.measured)) == len(counts.measured) == len(forms)
    for exported in planned.exported:
        assert exported.graph.comparisons[0].precision == "fp32"


def test_a_budgeted_export_writes_the_measured_graph(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(certified, "export_graph", never)
    monkeypatch.setattr(certified, "compare", never)
    out = tmp_path / "b.cmdiad"
    write_within(planned, Budget(1e6, 1e6), out, ExportOptions(), SILENT)
    written = (out / "graph.onnx").read_bytes()
    assert written in [exported.graph.path.read_bytes() for exported in planned.exported]


def test_banks_searches_and_precisions_are_measured(planned: Planned) -> None:
    points = planned.plan.points
    assert [exported.candidate.form for exported in planned.exported] == [point.form for point in points]
    assert {point.form.bank for point in points} == {0.2, 0.05}
    tried = {p.form.precision for p in points} | {form.precision for form, _ in planned.plan.refused}
    assert tried == {"fp32", "fp16", "int8", "int8-cpu"}
    assert (planned.plan.good, planned.plan.tampered) == (3, 3)
    assert planned.plan.engine.startswith("onnxruntime ")
    for point in points:
        assert point.latency_ms > 0
        assert point.memory_mb > point.graph_mb > 0
        assert 0 <= point.change.auroc <= 1


def test_first_point_is_the_detector_as_trained(planned: Planned, trained: Cached) -> None:
    first = planned.plan.points[0]
    run = load_run(trained("rgb"))
    assert first.form.rows == tuple(len(search.rows) for search in run.detector.searches)
    assert (first.form.bank, first.form.width, first.form.precision) == (0.2, None, "fp32")
    assert first.change.score_max_share < 1e-3
    assert first.change.auroc_change == first.change.label_flips == 0


def test_smaller_banks_change_scores_and_graphs(planned: Planned) -> None:
    single = [point for point in planned.plan.points if point.form.precision == "fp32"]
    trained, small = single[0], next(point for point in single if point.form.bank == 0.05)
    assert small.form.rows[0] == trained.form.rows[0] // 4
    assert small.graph_mb < trained.graph_mb
    assert small.change.score_max_share > trained.change.score_max_share
    auroc_of_trained = trained.change.auroc
    assert small.change.auroc_change == pytest.approx(small.change.auroc - auroc_of_trained)


def test_lower_precisions_only_for_what_is_worth_it(planned: Planned) -> None:
    points = planned.plan.points[:2]
    best, beaten = replace(points[0], latency_ms=1.0, memory_mb=1.0), replace(points[0], latency_ms=9.0, memory_mb=9.0)
    other = replace(beaten, form=replace(beaten.form, bank=0.01))
    candidates = [planned.exported[0].candidate] * 3
    assert len(promising(candidates, [best, beaten, other])) == 1
    assert len(promising(candidates, [beaten, other, replace(other, latency_ms=1.0)])) == 2  # as trained, and the best


def test_best_bundle_within_a_budget(planned: Planned, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    out = tmp_path / "b.cmdiad"
    manifest = write_within(planned, Budget(1e6, 1e6), out, ExportOptions(), reporter)
    best = min(planned.plan.points, key=lambda p: (-p.change.auroc, p.change.score_max_share, p.latency_ms))
    bundle = Bundle.open(out)
    assert manifest["plan"]["budget"] == "1e+06 ms and 1e+06 MB"
    assert bundle.manifest["plan"]["chosen"] == json.loads(json.dumps(best.to_json()))
    assert len(bundle.manifest["plan"]["points"]) == len(planned.plan.points)
    assert bundle.precision == best.form.precision
    assert [rows for rows, _ in bundle.manifest["graph"]["banks"]] == list(best.form.rows)
    assert reporter.lines[0].startswith(f"for 1e+06 ms and 1e+06 MB: {best.form}; ")


def test_smaller_bank_is_written_with_its_own_threshold(planned: Planned, tmp_path: Path) -> None:
    """Only the small bank fits: its bundle holds its rows, its threshold and its share."""
    index = next(i for i, point in enumerate(planned.plan.points) if point.form.bank == 0.05)
    points = [replace(p, latency_ms=1.0 if i == index else 50.0) for i, p in enumerate(planned.plan.points)]
    forced = Planned(replace(planned.plan, points=tuple(points)), planned.exported)
    write_within(forced, Budget(2.0, None), tmp_path / "b.cmdiad", ExportOptions(), SILENT)
    bundle = Bundle.open(tmp_path / "b.cmdiad")
    small = planned.exported[index].candidate.run
    assert bundle.calibration == small.calibration
    assert bundle.manifest["recipe"]["detector"]["coreset"] == 0.05
    assert bundle.manifest["certificate"]["comparisons"][0]["passed"]


def test_no_graph_for_a_processor_where_a_gpu_engine_is_asked_for(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(planner, "write_certified", lambda run, out, graph, *_, **__: written.append(graph.precision))
    first = planned.plan.points[0]
    for form in (replace(first.form, precision="int8-cpu"), replace(first.form, proven=True)):
        points = (replace(first, form=form), replace(first, latency_ms=first.latency_ms + 1000))
        candidate, graph = planned.exported[0].candidate, planned.exported[0].graph
        processor = Exported(candidate.at(form.precision), replace(graph, precision=form.precision))
        other = Exported(candidate.at("fp16"), replace(graph, precision="fp16"))
        two = Planned(replace(planned.plan, points=points), (processor, other))
        for options in (ExportOptions(), ExportOptions(target="rtx")):
            write_within(two, Budget(1e6, None), tmp_path / "b.cmdiad", options, SILENT)
    assert written == ["int8-cpu", "fp16", "fp32", "fp16"]


def test_budget_that_cannot_be_met_writes_nothing(planned: Planned, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="a budget of 0.001 ms"):
        write_within(planned, Budget(0.001, None), tmp_path / "b.cmdiad", ExportOptions(), SILENT)
    assert list(tmp_path.iterdir()) == []


def test_what_its_certificate_refuses_is_told(
    trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: Planned
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CertificateError("run", found="a graph 9 % off", expected="2 %", action="widen it")

    monkeypatch.setattr(certified.Certifier, "certify", refuse)
    exports, candidate = planner._Exports(tmp_path, SILENT), planned.exported[0].candidate
    exports.add(iter([candidate]))
    assert exports.exported == []
    assert exports.refused == [(candidate.form, "a graph 9 % off")]


def test_run_without_held_out_samples(trained: Cached, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="held_out"):
        make_plan(replace(load_run(trained("rgb")), path=tmp_path), tmp_path, SILENT)


def test_peak_memory_is_of_a_process_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = cloud_graph(tmp_path / "g.onnx")
    np.savez(tmp_path / "inputs.npz", **cloud_inputs(20))
    ballast = np.ones(100_000_000)  # not to be counted
    assert 20 < peak_megabytes(graph, tmp_path / "inputs.npz") < ballast.nbytes / 1e6
    graph.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="the process that measures memory"):
        peak_megabytes(graph, tmp_path / "inputs.npz")
    assert capfd.readouterr().err


def test_held_out_of_a_run(trained: Cached) -> None:
    run = load_run(trained("xyz"))
    held_out = HeldOut.of(run.detector, load_held_out(run.path))
    assert held_out.tampered.tolist() == [False, True] * 3
    assert [list(inputs) for inputs in held_out.inputs] == [run.detector.input_names] * 6
