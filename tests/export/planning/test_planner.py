"""The planner on a tiny run: every point is a certified graph that was run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmdiad_export.held_out import HeldOut
from cmdiad_export.planning import planner
from cmdiad_export.planning.plan import Budget
from cmdiad_export.planning.planner import Candidate, Planned, make_plan, peak_megabytes, promising, write_within
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.errors import CertificateError, EngineError, RunError
from cmdiad_train.runs.run_directory import load_held_out, load_run
from graphs import cloud_graph, cloud_inputs
from helpers import silent

Cached = Callable[..., Path]


@pytest.fixture(scope="module")
def planned(trained: Cached) -> Planned:
    return make_plan(load_run(trained("rgb")), silent, shares=(0.05,))


def test_banks_searches_and_precisions_are_measured(planned: Planned) -> None:
    points = planned.plan.points
    assert len(points) == len(planned.candidates)
    assert [candidate.form for candidate in planned.candidates] == [point.form for point in points]
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
    candidates = [planned.candidates[0]] * 3
    assert len(promising(candidates, [best, beaten, other])) == 1
    assert len(promising(candidates, [beaten, other, replace(other, latency_ms=1.0)])) == 2  # as trained, and the best


def test_best_bundle_within_a_budget(planned: Planned, tmp_path: Path) -> None:
    said: list[str] = []
    out = tmp_path / "b.cmdiad"
    manifest = write_within(planned, Budget(1e6, 1e6), out, rtx=False, say=said.append)
    best = min(planned.plan.points, key=lambda p: (-p.change.auroc, p.change.score_max_share, p.latency_ms))
    bundle = Bundle.open(out)
    assert manifest["plan"]["budget"] == "1e+06 ms and 1e+06 MB"
    assert bundle.manifest["plan"]["chosen"] == json.loads(json.dumps(best.to_json()))
    assert len(bundle.manifest["plan"]["points"]) == len(planned.plan.points)
    assert bundle.precision == best.form.precision
    assert [rows for rows, _ in bundle.manifest["graph"]["banks"]] == list(best.form.rows)
    assert said[0].startswith(f"for 1e+06 ms and 1e+06 MB: {best.form}; ")


def test_smaller_bank_is_written_with_its_own_threshold(planned: Planned, tmp_path: Path) -> None:
    """Only the small bank fits: its bundle holds its rows, its threshold and its share."""
    index = next(i for i, point in enumerate(planned.plan.points) if point.form.bank == 0.05)
    points = [replace(p, latency_ms=1.0 if i == index else 50.0) for i, p in enumerate(planned.plan.points)]
    forced = Planned(replace(planned.plan, points=tuple(points)), planned.candidates)
    write_within(forced, Budget(2.0, None), tmp_path / "b.cmdiad", rtx=False, say=silent)
    bundle = Bundle.open(tmp_path / "b.cmdiad")
    small = planned.candidates[index].run
    assert bundle.calibration == small.calibration
    assert bundle.manifest["recipe"]["coreset"] == 0.05
    assert bundle.manifest["certificate"]["comparisons"][0]["passed"]


def test_no_graph_for_a_processor_where_a_gpu_engine_is_asked_for(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(planner, "write_bundle", lambda *_, precision, **__: written.append(precision))
    first = planned.plan.points[0]
    for form in (replace(first.form, precision="int8-cpu"), replace(first.form, proven=True)):
        points = (replace(first, form=form), replace(first, latency_ms=first.latency_ms + 1000))
        processor = Candidate(planned.candidates[0].run, planned.candidates[0].search, form.precision)
        two = Planned(replace(planned.plan, points=points), (processor, planned.candidates[0].at("fp16")))
        for rtx in (False, True):
            write_within(two, Budget(1e6, None), tmp_path / "b.cmdiad", rtx=rtx, say=silent)
    assert written == ["int8-cpu", "fp16", "fp32", "fp16"]


def test_budget_that_cannot_be_met_writes_nothing(planned: Planned, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="a budget of 0.001 ms"):
        write_within(planned, Budget(0.001, None), tmp_path / "b.cmdiad", rtx=False, say=silent)
    assert list(tmp_path.iterdir()) == []


def test_what_its_certificate_refuses_is_told(
    trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: Planned
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CertificateError("run", found="a graph 9 % off", expected="2 %", action="widen it")

    monkeypatch.setattr(planner, "write_bundle", refuse)
    exports = planner._Exports(tmp_path, silent, None)
    exports.add(planned.candidates[0])
    assert exports.candidates == []
    assert exports.refused == [(planned.candidates[0].form, "a graph 9 % off")]


def test_run_without_held_out_samples(trained: Cached, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="held_out"):
        make_plan(replace(load_run(trained("rgb")), path=tmp_path), silent)


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
