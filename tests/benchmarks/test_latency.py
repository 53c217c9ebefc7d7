"""Latency: what counts as the total, the takt's verdict, and both ways of running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cmdiad_bench import machine
from cmdiad_bench.latency import STAGES, WARM_UP, LatencyOptions, judge_takt, measure_latency
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.inputs import list_inputs
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.support.reporter import SILENT
from helpers import RecordingReporter, sample_files, truncate

Cached = Callable[..., Path]


@pytest.mark.parametrize(
    ("values", "takt", "passed", "late"),
    [
        ([10.0] * 100, 10.0, True, 0),
        ([10.0] * 100, 9.9, False, 100),
        ([10.0] * 99 + [50.0], 11.0, True, 1),
        ([10.0] * 98 + [50.0] * 2, 11.0, False, 2),
        ([5.0], 6.0, True, 0),
    ],
)
def test_takt_allows_one_late_part_in_a_hundred(values: list[float], takt: float, passed: bool, late: int) -> None:
    verdict = judge_takt(np.array(values), takt)
    assert (verdict["passed"], verdict["late"], verdict["takt_ms"]) == (passed, late, takt)
    assert verdict["p99_ms"] == pytest.approx(np.percentile(values, 99), abs=1e-3)


@pytest.mark.parametrize("pipeline", [False, True])
def test_both_ways_count_alike(data: Path, exported: Cached, monkeypatch: pytest.MonkeyPatch, pipeline: bool) -> None:
    """By a clock that ticks at each look: a real one may stand still or jump between the last interval and the end."""
    ticks = count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / 1e3, perf_counter=lambda: next(ticks) / 1e3)
    monkeypatch.setattr("cmdiad_bench.latency.time", clock)
    files = list_inputs([data / "gear" / "test"], "rgb")
    recorder = RecordingReporter()
    with Inspector.open(exported("rgb")) as inspector:
        seen: list[str] = []
        judge = inspector.judge
        inspector.judge = lambda sample, *rest, **more: seen.append(sample.name) or judge(sample, *rest, **more)  # type: ignore[method-assign]
        figures = measure_latency(
            inspector,
            files,
            LatencyOptions(runs=7, seconds=600, pipeline=pipeline, takt_ms=1e9),
            recorder,
        )
    assert seen == [str(files[i % len(files)]) for i in range(WARM_UP + 7)]
    assert [done for _, done, _ in recorder.steps] == list(range(1, 8))
    assert (figures["runs"], figures["ended_by"], figures["pipeline"]) == (7, "runs", pipeline)
    assert set(figures["stages_ms"]) == set(STAGES)
    parts = sum(figures["stages_ms"][stage]["mean"] for stage in ("decode", "preprocess", "engine", "map"))
    if pipeline:
        assert figures["total_ms"]["mean"] > parts
        assert figures["interval_ms"]["mean"] == pytest.approx(1e3 / figures["per_second"], rel=0.5)
    else:
        assert figures["total_ms"]["mean"] == pytest.approx(parts, abs=0.01)
        assert figures["interval_ms"] is None
    assert figures["takt"]["passed"] and figures["takt"]["late"] == 0
    assert figures["per_second"] > 0
    assert not [t for t in threading.enumerate() if t.name.startswith("cmdiad-prepare")]


@pytest.mark.parametrize("pipeline", [False, True])
def test_moving_the_map_over_the_sensor_is_a_stage_of_the_total(
    data: Path, exported: Cached, monkeypatch: pytest.MonkeyPatch, pipeline: bool
) -> None:
    to_sensor = Prepared.to_sensor

    def slowly(self: Prepared, anomaly_map: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        return to_sensor(self, anomaly_map)

    monkeypatch.setattr(Prepared, "to_sensor", slowly)
    files = list_inputs([data / "gear" / "test"], "rgb")
    with Inspector.open(exported("rgb")) as inspector:
        figures = measure_latency(inspector, files, LatencyOptions(runs=3, seconds=600, pipeline=pipeline), SILENT)
    assert figures["stages_ms"]["map"]["p50"] >= 50
    assert figures["total_ms"]["p50"] >= 50 + figures["stages_ms"]["engine"]["p50"]


@pytest.mark.parametrize("pipeline", [False, True])
def test_measurement_ends_after_the_time_limit(data: Path, exported: Cached, pipeline: bool) -> None:
    files = list_inputs([data / "gear" / "test"], "rgb")
    with Inspector.open(exported("rgb")) as inspector:
        figures = measure_latency(inspector, files, LatencyOptions(seconds=0, pipeline=pipeline), SILENT)
    assert (figures["runs"], figures["ended_by"], figures["takt"]) == (1, "seconds", None)


@pytest.mark.parametrize("pipeline", [False, True])
def test_files_that_cannot_be_used_are_left_out_and_named(own_data: Path, exported: Cached, pipeline: bool) -> None:
    files = sample_files(own_data, "test", "good", "rgb") + sample_files(own_data, "test", "hole", "rgb")
    truncate(files[0])
    recorder = RecordingReporter()
    options = LatencyOptions(runs=4, seconds=600, pipeline=pipeline)
    with Inspector.open(exported("rgb")) as inspector:
        figures = measure_latency(inspector, files, options, recorder)
    assert (figures["runs"], figures["files"], figures["ended_by"]) == (4, 3, "runs")
    assert figures["not_inspected"] == {str(files[0]): "unreadable"}
    assert recorder.lines[0] == "1 of 3 files could not be inspected and are left out:"
    assert str(files[0]) in recorder.lines[1]
    assert not [t for t in threading.enumerate() if t.name.startswith("cmdiad-prepare")]


@pytest.mark.parametrize("pipeline", [False, True])
def test_files_of_which_none_can_be_used(own_data: Path, exported: Cached, pipeline: bool) -> None:
    bad = truncate(sample_files(own_data, "test", "good", "rgb")[0])
    with Inspector.open(exported("rgb")) as inspector, pytest.raises(InputError, match=bad.name):
        measure_latency(inspector, [bad], LatencyOptions(runs=3, seconds=9, pipeline=pipeline), SILENT)


def test_machine_is_described() -> None:
    found = machine.describe_machine()
    assert found["cores"] >= 1
    assert found["processor"]
    assert found["versions"]["numpy"] == np.__version__


def test_clocks_are_read_where_the_kernel_tells_them(tmp_path: Path) -> None:
    assert machine.cpu_clocks(tmp_path) is None
    for core, hertz in enumerate(("2600000", "800000")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(hertz + "\n")
        (folder / "scaling_governor").write_text("powersave\n")
    (tmp_path / "cpu0" / "cpufreq" / "cpuinfo_max_freq").write_text("3700000\n")
    found = machine.cpu_clocks(tmp_path)
    assert found == {"now": [2600, 800], "highest": [3700, None], "governor": ["powersave"]}


def test_gpu_is_asked_through_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Orin, 540.3, 918 MHz, 2133 MHz, 1300 MHz, 9.10 W, 7620 MiB'\n")
    program.chmod(0o755)
    (gpu,) = machine.gpus() or []
    assert (gpu["name"], gpu["clocks.sm"], gpu["memory.total"]) == ("Orin", "918 MHz", "7620 MiB")
    program.write_text("#!/bin/sh\nexit 9\n")
    assert machine.gpus() is None
