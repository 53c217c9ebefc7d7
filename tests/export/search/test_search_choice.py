"""Exact and fast searches, held against brute force in float64 on held-out samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.options import ExportOptions
from cmdiad_export.search import choice as search_choice
from cmdiad_export.search import measured as search_measured
from cmdiad_export.search.budget import bank_sizes
from cmdiad_export.search.choice import (
    EXACT,
    FAST,
    PROVEN,
    choose_all,
    choose_candidates,
    choose_on,
    fast_settings,
)
from cmdiad_export.search.held_out import HeldOut, RelativeResults, ResultChange, as_outputs
from cmdiad_export.search.measured import SearchBench, multiply_adds
from cmdiad_export.search.nearest import BankQueries
from cmdiad_export.search.smaller_banks import with_smaller_banks
from cmdiad_export.search.stand_ins import queries_of
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.certificate import search_tolerance, tolerance_for
from cmdiad_runtime.bundle.search_record import SearchTolerance
from cmdiad_runtime.errors import CertificateError, RunError
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings
from cmdiad_train.detectors.bank.search.proven import ProvenSearch, nearest_one_by_one
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.run import Run, load_held_out, load_run
from helpers import RecordingReporter
from lanes import long

Cached = Callable[..., Path]
TOLERANCE = search_tolerance(published_blur=False)
PASSING = replace(TOLERANCE, score=0.5, map=0.5, auroc=0.5)
"""Random features of seven training samples leave little to leave out."""


@pytest.fixture
def run(trained: Cached) -> Run:
    return load_run(trained("rgb", "f2f"))


@pytest.fixture
def held_out(run: Run) -> HeldOut:
    return HeldOut.of(run.detector, load_held_out(run.path))


def test_exact_search_is_measured_on_the_golden_samples(run: Run) -> None:
    reporter = RecordingReporter()
    choice = choose_candidates(run, "exact", reporter)
    assert choice.chosen.settings == SearchSettings()
    assert (choice.good, choice.tampered) == (3, 3)
    assert choice.chosen.recall == 1
    assert 0 <= choice.chosen.distance_max_error < 1e-4
    assert 0 <= choice.chosen.change.score_max_share < 1e-4
    assert choice.chosen.change.auroc_change == choice.chosen.change.label_flips == 0
    assert choice.chosen.passed
    assert not choice.fast
    assert choice.tried == ()
    assert reporter.lines == [str(choice)]
    assert reporter.lines[0].startswith(
        "exact search, 4 candidates from all components, against brute force in float64 on 3 good"
    )


NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
EACH = {"xyz": NORMALS, "view": "each", "coreset": 1.0, "image_score": "max"}
"""Two banks, two maps, no table of neighbours."""


@pytest.mark.parametrize(("modality", "hallucination", "changes"), [("xyz", "f2f", {}), long("both", "none", EACH)])
def test_other_detectors(trained: Cached, modality: str, hallucination: str, changes: dict[str, Any]) -> None:
    run = load_run(trained(modality, hallucination, **changes))
    held_out = HeldOut.of(run.detector, load_held_out(run.path))
    for choice in choose_all(run, held_out, SILENT):
        assert choice.chosen.passed
        assert choice.chosen.recall > 0.9
    for share, smaller in with_smaller_banks(run, held_out, (0.1, 0.05)).items():
        part: Any = smaller.recipe.detector
        assert part.coreset == share
        assert smaller.calibration.samples == 3
        assert smaller.calibration.map_threshold > 0
        exact = choose_all(smaller, held_out, SILENT)[0].chosen
        assert exact.recall == 1
        assert exact.passed


def test_oracle_is_what_the_detector_computes(run: Run, held_out: HeldOut) -> None:
    """Brute force behind the same scoring gives the trained detector's scores and maps, but for rounding."""
    reference = SearchBench(run, held_out).reference
    found = [run.detector(*inputs.values()) for inputs in held_out.inputs]
    expected = held_out.relative([as_outputs((score[0], drawn)) for score, drawn in found], run.calibration)
    np.testing.assert_allclose(reference.scores, expected.scores, rtol=1e-4)
    np.testing.assert_allclose(reference.maps, expected.maps, atol=1e-4)
    assert held_out.tampered.tolist() == [False, True] * 3


@pytest.mark.parametrize("plan", [SearchSettings(2, 2), SearchSettings(4, 4), SearchSettings(8, 3)])
def test_measured_search_is_the_exported_one(run: Run, held_out: HeldOut, plan: SearchSettings) -> None:
    """One product serves all numbers of candidates, in steps; the graph's search must return the same."""
    for search, queries in zip(run.detector.searches, queries_of(run.detector, held_out), strict=True):
        asked = torch.cat(queries)
        bank = BankQueries(search, asked)
        bank.projected(replace(plan, candidates=1))
        distance, index = bank.projected(plan)
        expected = BankSearch(search.rows + search.center, plan)(asked)
        torch.testing.assert_close(distance, expected[0], rtol=1e-5, atol=1e-6)
        assert float((index == expected[1]).float().mean()) > 0.999  # other rows where equally far
        exact = bank.exact(SearchSettings())
        assert bank.hits(exact[1]) == len(asked)
        assert bank.hits(index) == bank.hits(expected[1]) < len(asked)
        assert bank.error(exact[0]) < 1e-4 < bank.error(distance)


def test_recall_counts_rows_that_are_equally_near(run: Run, held_out: HeldOut) -> None:
    search = run.detector.searches[0]
    twice = BankSearch(torch.cat([search.rows, search.rows]) + search.center)
    queries = queries_of(run.detector, held_out)[0][0]
    bank = BankQueries(twice, queries)
    other = (bank.index + len(search.rows)) % len(twice.rows)
    assert bank.hits(other) == bank.hits(bank.index) == len(queries)
    farthest = torch.cdist(queries, bank.rows).argmax(1)
    assert bank.hits(farthest) == 0


def test_settings_are_cheaper_than_exact_and_start_with_the_cheapest(run: Run) -> None:
    searches = run.detector.searches
    costs = [multiply_adds(searches, plan) for plan in fast_settings(searches)]
    assert costs
    assert costs == sorted(costs)
    assert costs[-1] < multiply_adds(searches, SearchSettings())
    narrow = min(search.rows.shape[1] for search in searches)
    assert all(plan.width is not None and plan.width < narrow for plan in fast_settings(searches))
    alone = BankSearch(torch.randn(1000, 64))
    assert multiply_adds([alone], SearchSettings()) == 1000 * 64 + 64 * 4 * 64
    assert multiply_adds([alone], SearchSettings(16, 8)) == 8 * (1000 + 64) + 64 * 16 * 64


def test_cheapest_fast_search_within_tolerance_is_taken(
    run: Run, held_out: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_measured, "search_tolerance", lambda **_: PASSING)
    choice = choose_on(run, held_out, "fast", SILENT)
    assert choice.fast
    assert choice.chosen.passed
    assert not any(each.passed for each in choice.tried)
    order = [each.settings for each in (*choice.tried, choice.chosen)]
    assert order == fast_settings(run.detector.searches)[: len(order)]
    assert choice.chosen.recall < 1
    assert choice.chosen.distance_max_error > 0
    assert str(choice).startswith("fast search, ")


def test_search_stays_exact_where_no_fast_one_passes(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(search_choice, "WIDTHS", (2,))
    monkeypatch.setattr(search_choice, "CANDIDATES", (1, 2))
    reporter = RecordingReporter()
    choice = choose_candidates(run, "fast", reporter)
    assert reporter.lines[0] == "no fast search is within tolerance (2 tried): the search stays exact"
    assert choice.chosen.settings == SearchSettings()
    assert choice.chosen.passed
    assert [each.settings for each in choice.tried] == [SearchSettings(1, 2), SearchSettings(2, 2)]
    assert not any(each.passed for each in choice.tried)
    assert choice.tried[0].recall < choice.tried[1].recall < 1
    record = write_bundle(run, tmp_path / "b.cmdiad", ExportOptions(), SILENT, search=choice)
    assert record["certificate"]["search"]["asked"] == "fast"
    assert record["certificate"]["search"]["method"] == EXACT
    assert record["certificate"]["tolerances"]["fp32"] == {"score": 1e-3, "map": 2e-3}


@pytest.mark.parametrize(("precision", "loop"), [long("fp32", True), ("fp16", False)])
def test_fast_search_is_in_the_graph_and_in_the_certificate(
    run: Run, tmp_path: Path, precision: str, loop: bool
) -> None:
    choice = choose_candidates(run, "fast", SILENT)
    sizes = bank_sizes(run.detector, run.golden[0].inputs, precision)
    whole = max(size.scratch(choice.chosen.settings) for size in sizes)
    out = tmp_path / "b.cmdiad"
    manifest = write_bundle(
        run,
        out,
        ExportOptions(precision, scratch_megabytes=(whole - 1) / 1e6 if loop else None),  # type: ignore[arg-type]
        SILENT,
        search=choice,
    )
    plan = manifest["graph"]["search"]["plan"]
    found = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["certificate"]["search"]
    assert {key: plan[key] for key in ("candidates", "width", "proven")} == found["chosen"]["plan"]
    assert (plan["chunk"] is not None) == loop
    graph = onnx.load(out / "graph.onnx").graph
    assert any(node.op_type == "Loop" for node in graph.node) == loop
    bases = [tensor.dims for tensor in graph.initializer if "search.basis" in tensor.name]
    assert [list(each) for each in bases] == [[s.rows.shape[1], plan["width"]] for s in run.detector.searches]
    assert found["method"] == FAST
    assert found["samples"] == {"good": 3, "tampered": 3}
    assert found["chosen"]["passed"]
    assert found["chosen"]["score_max_share"] <= found["tolerance"]["score"] == 5e-3
    assert abs(found["chosen"]["auroc_change"]) <= found["tolerance"]["auroc"] == 2e-3
    assert found["chosen"]["label_flips"] == 0
    assert 0.9 < found["chosen"]["recall"] <= 1
    expected = tolerance_for(precision, published_blur=False, fast_search=True)
    assert Bundle.open(out).tolerance == expected
    assert expected.score == max(tolerance_for(precision, published_blur=False).score, 5e-3)


def test_exact_search_beyond_tolerance_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    impossible = SearchTolerance(score=-1, map=1, auroc=1)
    monkeypatch.setattr(search_measured, "search_tolerance", lambda **_: impossible)
    with pytest.raises(CertificateError, match="exact search, 4 candidates"):
        write_bundle(run, tmp_path / "b.cmdiad", ExportOptions(), SILENT)
    assert list(tmp_path.iterdir()) == []


def test_older_run_without_held_out_samples(run: Run, tmp_path: Path) -> None:
    older = replace(run, path=tmp_path)
    with pytest.raises(RunError, match=r"held_out\.safetensors: found no such file.*Train again.*--search exact"):
        choose_candidates(older, "fast", SILENT)
    assert choose_candidates(older, "exact", SILENT).chosen.passed


def results(*scores: float) -> RelativeResults:
    return RelativeResults(np.array(scores), np.array(scores)[:, None, None])


def test_change_counts_flips_and_leaves_out_what_was_borderline() -> None:
    tampered = np.array([False, False, True, True])
    tolerance = SearchTolerance(score=0.01, map=0.02, auroc=0.002)
    reference = results(0.5, 1.0, 2.0, 1.5)
    same = ResultChange.between(reference, reference, tampered, tolerance)
    assert (same.score_max_share, same.label_flips, same.borderline, same.auroc) == (0, 0, 1, 1)
    assert same.within(tolerance)
    over = ResultChange.between(reference, results(0.5, 1.005, 2.0, 1.5), tampered, tolerance)
    assert over.label_flips == 0  # the second one lies on the threshold
    assert over.within(tolerance)
    flipped = ResultChange.between(reference, results(0.5, 1.0, 0.4, 1.5), tampered, tolerance)
    assert flipped.label_flips == 1
    assert flipped.score_max_share == pytest.approx(1.6)
    assert flipped.auroc == 0.5
    assert flipped.auroc_change == -0.5


@pytest.mark.parametrize(
    "changes", [{"score_max_share": 0.006}, {"map_max_share": 0.011}, {"auroc_change": -0.003}, {"label_flips": 1}]
)
def test_each_limit_of_a_fast_search_counts(changes: dict[str, float]) -> None:
    change = ResultChange(0.005, 0.01, 0.9, 0.002, 0, 0)
    assert change.within(TOLERANCE)
    assert not replace(change, **changes).within(TOLERANCE)


@pytest.mark.parametrize("loop", [long(False), True])
def test_proven_search_is_exact_in_graph_and_certificate(
    run: Run, tmp_path: Path, loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_measured, "WORTH", 3.0)  # Rotating queries costs more than a small bank saves.
    reporter = RecordingReporter()
    choice = choose_candidates(run, "proven", reporter)
    chosen = choice.chosen
    assert choice.proven
    assert not choice.fast
    assert chosen.settings.proven
    assert chosen.recall == 1
    assert chosen.distance_max_error < 1e-4
    assert 0 <= chosen.in_full < 1
    assert reporter.lines == [str(choice)]
    assert reporter.lines[0].startswith(
        f"proven search, {chosen.settings.candidates} candidates from {chosen.settings.width} components"
    )
    out = tmp_path / "b.cmdiad"
    size = max(bank_sizes(run.detector, run.golden[0].inputs, "fp32"), key=lambda each: each.rows)
    budget = (size.scratch(chosen.settings) - 1) / 1e6 if loop else None
    manifest = write_bundle(run, out, ExportOptions(scratch_megabytes=budget), SILENT, search=choice)
    assert manifest["graph"]["search"]["plan"]["proven"]
    assert (manifest["graph"]["search"]["plan"]["chunk"] is not None) == loop
    assert manifest["certificate"]["search"]["method"] == PROVEN
    assert manifest["certificate"]["search"]["chosen"]["in_full"] == chosen.in_full
    assert Bundle.open(out).tolerance == tolerance_for("fp32", published_blur=False)
    assert manifest["certificate"]["comparisons"][0]["score_max_share"] < 1e-4


def test_share_in_full_is_that_of_the_queries_in_doubt(run: Run, held_out: HeldOut) -> None:
    for search, queries in zip(run.detector.searches, queries_of(run.detector, held_out), strict=True):
        asked = torch.cat(queries)
        rivals = BankQueries(search, asked).rivals(2)
        proven = ProvenSearch(search.rows + search.center, SearchSettings(4, 2, proven=True))
        leading, rest = proven._turn(asked)
        keys, nearest = proven._candidates(leading, rest)
        best, _ = nearest_one_by_one(leading, rest, proven.leading, proven.rest, nearest)
        doubt = keys[:, -1] > proven._proving(leading, rest, best)
        assert float(((rivals >= 4) == doubt).float().mean()) > 0.999  # but for rounding


def test_proven_search_where_it_saves_nothing_is_the_exact_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_measured, "WORTH", 0.01)
    reporter = RecordingReporter()
    choice = choose_candidates(run, "proven", reporter)
    assert reporter.lines[0] == "no proof saves enough here: the search takes the product over all channels"
    assert choice.asked == "proven"
    assert choice.chosen.settings == SearchSettings()
    assert choice.to_json()["method"] == EXACT


def test_costs_of_a_proven_search() -> None:
    alone = BankSearch(torch.randn(1000, 64))
    proven = SearchSettings(16, 8, proven=True)
    whole = multiply_adds([alone], SearchSettings())
    assert multiply_adds([alone], proven, [0.25]) == multiply_adds([alone], proven) + whole / 4
    assert multiply_adds([alone], proven) == multiply_adds([alone], SearchSettings(16, 8)) + 64 * (64 - 8)
