"""The comparison on tiny networks and banks: everything agrees, and the tables say what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cmdiad_runtime.readers import read_rgb, read_xyz
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings
from cmdiad_train.recipe import RgbExtractor, XyzExtractor
from helpers import RecordingReporter, command, sample_files
from studies import __main__ as main_module
from studies.__main__ import cli
from studies.comparison import compare as compare_module
from studies.comparison.compare import CompareOptions, Samples, Times, _figures, _interleaved, compare, markdown
from studies.comparison.contenders import CmdiadContender
from studies.comparison.floor import Rates, Work, measure_rates, work_of
from studies.comparison.parts import Form, RunResult, Setup, bank_rows, build_parts, draw_rows
from studies.comparison.stage_times import STAGES, stages_of_runs
from studies.comparison.work import needed_work

RGB = RgbExtractor("test_vit", (), None, "seeded")
FAST = "default int8-cpu, 8 components, 8 candidates"
PROVEN = Form("default", "fp32", SearchSettings(8, 16, 64, proven=True))
XYZ = XyzExtractor("point_mae", 64, 16, 24, 2, 3, (0, 1), "batch", "seeded", 14)


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the rates of the machine for a moment; `test_rates_are_plausible` checks the measurement."""
    monkeypatch.setattr(compare_module, "measure_rates", partial(measure_rates, 0.01))


def small_setup(main: str) -> Setup:
    return Setup(main, "f2f", RGB, XYZ, 112, 150, 220)  # type: ignore[arg-type]


def good(data: Path) -> list[Sample]:
    """Training samples, for banks."""
    rgb, xyz = (sample_files(data, "train", "good", modality) for modality in ("rgb", "xyz"))
    return [Sample(str(a), rgb=read_rgb(a), xyz=read_xyz(b)) for a, b in zip(rgb, xyz, strict=True)]


def samples(data: Path) -> list[Sample]:
    rgb, xyz = (sample_files(data, "test", "good", modality) for modality in ("rgb", "xyz"))
    return [Sample(str(a), rgb=read_rgb(a), xyz=read_xyz(b)) for a, b in zip(rgb, xyz, strict=True)]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("main", ["rgb", "xyz"])
def test_comparison_of_one_modality(data: Path, tmp_path: Path, main: str) -> None:
    recorder = RecordingReporter()
    forms = [
        Form("faithful", "fp32"),
        Form("default", "fp32"),
        PROVEN,
        Form("default", "int8-cpu", SearchSettings(8, 8, 64)),
    ]
    memory = main == "xyz"  # Its processes run what those of rgb run, and the geometry.
    options = CompareOptions(runs=3, memory=memory)
    record = compare([small_setup(main)], Samples(samples(data), good(data)), forms, tmp_path, options, recorder)
    assert record == json.loads((tmp_path / "compare.json").read_text())
    table = record["tables"][f"main {main}"]
    assert list(table["contenders"]) == ["published", "faithful fp32", "default fp32", PROVEN.name, FAST]
    assert table["banks"] == [
        [150 if main == "rgb" else 220, 64 if main == "rgb" else 48],
        [220, 48 if main == "rgb" else 64],
    ]
    for name, each in table["contenders"].items():
        expected = set(STAGES) if main == "xyz" or name == "published" else set(STAGES) - {"geometry"}
        assert set(each["stages_ms"]) == expected
        assert each["total_ms"]["low"] <= each["total_ms"]["median"] <= each["total_ms"]["high"]
        assert (each["memory"] is not None) == memory
        assert not memory or 20 < each["memory"]["opened_mb"] <= each["memory"]["peak_resident_mb"]
        assert len(each["scores"]) == 3
    assert table["contenders"]["published"]["times_faster"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert table["contenders"]["published"]["largest_score_difference"] == 0
    assert 0 < table["contenders"][FAST]["largest_score_difference"] < 0.05
    assert table["contenders"][PROVEN.name]["largest_score_difference"] < 1e-5
    compared = {name: each["scores_compared"] for name, each in table["contenders"].items()}
    assert compared == {"published": 3, "faithful fp32": 3, "default fp32": 3, PROVEN.name: 2, FAST: 2}
    assert table["contenders"]["faithful fp32"]["largest_score_difference"] < (1e-4 if main == "rgb" else 0.02)
    assert {"extract", "hallucination", "search", "total"} <= set(table["floor"])
    assert [line for line in recorder.lines if line.startswith("round")][-1].startswith("round 3 of 3")
    text = (tmp_path / "compare.md").read_text()
    assert f"## main {main}" in text and "| faithful fp32 |" in text and "| search |" in text
    for picture in (f"main-{main}.png", f"main-{main}-stages.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_command_with_small_networks(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One form of cmdiad is enough here: the tests above compare them all."""
    forms = main_module._forms
    monkeypatch.setattr(main_module, "_forms", lambda *options: forms(*options)[-1:])
    arguments = ("--small", "--main", "rgb", "--rgb-bank", 60, "--xyz-bank", 60, "--runs", 1, "--samples", 1)
    ended = command(cli, "compare", data, "--out", tmp_path / "out", *arguments, "--fast", "8:8", "--no-memory")
    assert ended.code == 0, ended.err
    assert f"| {FAST} |" in ended.out
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert list(record["tables"]) == ["main rgb"]
    assert list(record["tables"]["main rgb"]["contenders"]) == ["published", FAST]
    assert record["tables"]["main rgb"]["contenders"]["published"]["memory"] is None


def test_every_form_has_its_option() -> None:
    names = [form.name for form in main_module._forms(("8:8",), ("16:8",), 64)]
    assert names == ["faithful fp32", "default fp32", PROVEN.name, FAST]


def test_fast_search_that_is_no_pair_of_numbers(data: Path, tmp_path: Path) -> None:
    ended = command(cli, "compare", data, "--out", tmp_path, "--fast", "64")
    assert ended.code == 2
    assert "--fast takes WIDTH:CANDIDATES" in ended.err


@pytest.mark.slow
@pytest.mark.skipif(find_spec("anomalib") is None, reason="needs anomalib")
@pytest.mark.filterwarnings("ignore")
def test_patchcore_beside_anomalibs(data: Path, tmp_path: Path) -> None:
    setup = Setup("rgb", "none", RGB, replace(XYZ, grid=20), 160, 150, 220)  # the ViT's own size: anomalib has no other
    record = compare(
        [setup],
        Samples(samples(data), good(data)),
        [Form("default", "fp32")],
        tmp_path,
        CompareOptions(1, False),
        SILENT,
    )
    (table,) = record["tables"].values()
    assert list(table["contenders"]) == ["anomalib torch", "anomalib exported", "default fp32"]
    assert table["contenders"]["anomalib exported"]["largest_score_difference"] < 1e-3


def event(name: str, ts: int, dur: int) -> dict[str, Any]:
    return {"name": name, "ts": ts, "dur": dur}


def test_stages_of_runs_count_each_node_once() -> None:
    events = [
        event("session_initialization", 0, 50),
        event("model_run", 100, 900),
        event("features.0.extractor.model/node_a_kernel_time", 110, 100),
        event("rewritten_kernel_time", 210, 10),  # belongs to the stage before
        event("features.0/pool_kernel_time", 220, 30),
        event("hallucinated.network/mlp_kernel_time", 250, 40),
        event("scorers.0.search/loop_kernel_time", 300, 400),
        event("inside_the_loop_kernel_time", 310, 350),
        event("scorers.0/map_kernel_time", 700, 20),
        event("scorers.0/map_fence_before", 700, 1),
        event("model_run", 2000, 10),
        event("features.0.extractor/a_kernel_time", 2001, 5),
    ]
    first, second = stages_of_runs(reversed(events))
    assert first == {"extract": 0.11, "geometry": 0.03, "hallucination": 0.04, "search": 0.4, "scoring": 0.02}
    assert second["extract"] == 0.005 and sum(second.values()) == 0.005


@pytest.mark.long
def test_profiles_are_read_and_removed(data: Path, tmp_path: Path) -> None:
    """Every stage of a run comes from the profile of ONNX Runtime, of which no file is left."""
    parts, paired = build_parts(small_setup("rgb"), samples(data)[:1], good(data), SILENT)
    contender = CmdiadContender(parts, Form("default", "fp32"), paired, tmp_path)
    contender.run(paired[0])
    (stages,) = contender.close()
    assert set(stages) == set(STAGES) - {"geometry"}
    assert not list(tmp_path.glob("*.json.*"))


class Fake:
    """A contender that keeps a diary."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary
        self.peak_arguments: list[str] = []

    def run(self, paired: Any) -> RunResult:
        self.diary.append(f"{self.name}{paired}")
        return RunResult(10.0 + paired, 2.0)

    def close(self) -> list[dict[str, float]]:
        runs = [each for each in self.diary if each.startswith(self.name)]
        return [{"search": float(number)} for number in range(len(runs))]


def test_rounds_are_interleaved_and_the_first_is_not_counted() -> None:
    diary: list[str] = []
    contenders = [Fake("a", diary), Fake("b", diary)]
    times = _interleaved(contenders, [0, 1], 3, {"b"}, SILENT)  # type: ignore[list-item]
    assert diary == ["a1", "b1", "a0", "b0", "a1", "b1", "a0", "b0", "b0", "b1"]
    assert [len(each.runs) for each in times.values()] == [3, 3]
    assert times["a"].scores == [10, 11, 10]
    assert times["b"].scores == [10, 11]
    assert [stages["search"] for stages in times["b"].stages_ms] == [1, 2, 3]


def test_figures_are_ratios_of_medians_with_the_spread_of_the_rounds() -> None:
    slow = Times([RunResult(2.0, t) for t in (100.0, 200.0, 300.0)], [{"search": t} for t in (10.0, 20.0, 30.0)], [])
    fast = Times([RunResult(2.1, t) for t in (10.0, 50.0, 20.0)], [{"search": t} for t in (1.0, 2.0, 3.0)], [])
    found = _figures(fast, slow)
    assert found["total_ms"] == {"median": 20.0, "low": 15.0, "high": 35.0}
    assert found["times_faster"] == {"median": 10.0, "low": 7.0, "high": 12.5}
    assert found["stages_times_faster"]["search"]["median"] == 10.0
    assert found["largest_score_difference"] == pytest.approx(0.05)


def test_floor_is_the_slower_of_product_and_copy() -> None:
    rates = Rates(multiply_adds=1e9, copied_bytes=1e10)
    assert Work(5e6, 1e6).floor_ms(rates) == pytest.approx(5.0)
    assert Work(1e5, 2e8).floor_ms(rates) == pytest.approx(20.0)
    assert Rates(1, 4).better(Rates(2, 3)) == Rates(2, 4)


def test_work_of_a_linear_layer_and_of_a_search_is_counted() -> None:
    layer = nn.Linear(30, 50)
    work = work_of(layer, torch.zeros(7, 30))
    assert work.multiply_adds == 7 * 30 * 50
    assert work.moved_bytes == 4 * (30 * 50 + 50 + 7 * 30 + 7 * 50)
    search = BankSearch(torch.randn(200, 16))
    assert work_of(search, torch.randn(9, 16)).multiply_adds == 9 * 200 * 16


def test_needed_work_counts_distinct_rows(data: Path) -> None:
    parts, paired = build_parts(small_setup("rgb"), samples(data)[:1], good(data), SILENT)
    work = needed_work(parts, paired[0])
    assert set(work) == {"extract", "hallucination", "search"}
    assert work["search"].multiply_adds == 49 * (150 * 64 + 220 * 48)


def test_rates_are_plausible() -> None:
    rates = measure_rates(seconds=0.01)
    assert 1e8 < rates.multiply_adds < 1e15
    assert 1e7 < rates.copied_bytes < 1e14


def test_rows_of_a_bank_are_the_given_ones_as_far_as_they_go() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    for count in (20, 50, 80):
        found = bank_rows(rows, count, seed=1)
        assert found.shape == (count, 6)
        assert torch.equal(found, bank_rows(rows, count, seed=1))
        known = (found[:, None] == rows[None]).all(2).any(1)
        assert int(known.sum()) == min(count, 50)
        assert len(torch.unique(found, dim=0)) == count


def test_drawn_rows_lie_as_the_given_ones_do() -> None:
    rows = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 1, 1, 1, 1, 0.1]) + 3
    drawn = draw_rows(rows, 5000, seed=1)
    assert drawn.shape == (5000, 6)
    assert torch.equal(drawn, draw_rows(rows, 5000, seed=1))
    np.testing.assert_allclose(drawn.mean(0), rows.mean(0), atol=0.3)
    np.testing.assert_allclose(drawn.std(0) / rows.std(0), 1, atol=0.25)


def test_markdown_has_a_cell_for_every_column(data: Path) -> None:
    spread = {"median": 4.0, "low": 3.0, "high": 5.0}
    contender = {
        "total_ms": spread,
        "times_faster": spread,
        "stages_ms": {"search": spread},
        "stages_times_faster": {"search": spread},
        "scores": [1.0],
        "largest_score_difference": 0.01,
        "memory": {"peak_resident_mb": 100.0},
    }
    table = {
        "rgb": "vit",
        "banks": [[10, 4]],
        "contenders": {"a": contender, "b": {**contender, "stages_ms": {}, "memory": None}},
        "floor": {"total": {"ms": 2.0}, "search": {"ms": 1.0}},
    }
    machine = {"processor": "p", "cores": 2, "torch_threads": 2, "load_1min": 0.1, "versions": {"numpy": "2"}}
    rates = {"multiply_adds_per_s": 1e11, "copied_bytes_per_s": 1e10}
    text = markdown({"machine": machine, "rates": rates, "runs": 3, "samples": ["s"], "tables": {"main rgb": table}})
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row.count("|") for row in rows] == [8, 8, 8, 8, 4, 4, 4]
    assert "| a | 4.0 (3.0–5.0) | 4.00 (3.00–5.00) | 2.0 × | 100 | 1.00 | 1.00% |" in rows
    assert rows[-1] == "| search | 1.0 | 4.0 (3.0–5.0); 4.0 × |"
