"""Peak memory in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmdiad_bench import memory as module
from cmdiad_bench import peak
from cmdiad_bench.memory import DeviceWatch, measure_memory
from cmdiad_runtime.errors import EngineError
from helpers import python, sample_files, truncate

Cached = Callable[..., Path]


def test_bundle_in_a_process_of_its_own(data: Path, exported: Cached) -> None:
    figures = measure_memory(exported("rgb"), sample_files(data, "test", "good", "rgb"), engine="cpu")
    assert 20 < figures["opened_mb"] <= figures["peak_resident_mb"] < 3000
    assert figures["precision"] == "fp32"
    assert figures["engine"].startswith("onnxruntime ")
    assert "peak_device_mb" in figures


def test_failed_process_is_named(own_data: Path, exported: Cached, capfd: pytest.CaptureFixture[str]) -> None:
    bad = truncate(sample_files(own_data, "test", "good", "rgb")[0])
    with pytest.raises(EngineError, match="found exit code 3"):
        measure_memory(exported("rgb"), [bad], engine="cpu")
    told = capfd.readouterr().err
    assert told.startswith("error: ") and bad.name in told and "Traceback" not in told


def test_peak_is_what_was_resident_at_most() -> None:
    code = """
import numpy as np
from cmdiad_bench.peak import measured
def opened():
    kept = np.ones(4_000_000)  # 32 MB
    return lambda turn: float((kept + np.ones(16_000_000).sum()).sum())  # 128 MB for a moment
figures = measured(opened)
print(figures["peak_resident_mb"] - figures["opened_mb"])
"""
    assert float(python(code)) == pytest.approx(160, abs=32)  # the ones, and the sum beside them


def test_each_turn_is_told() -> None:
    turns: list[int] = []
    peak.measured(lambda: turns.append)
    assert turns == [0, 1, 2]


def test_process_of_a_graph_does_not_import_torch() -> None:
    code = (
        "import sys, cmdiad_bench.peak, cmdiad_bench.memory; print([m for m in ('torch', 'timm') if m in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_device_watch_keeps_the_most_beyond_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0, 180.5, 140.0, 120.0])
    seen: list[float] = []

    def reading() -> float:
        seen.append(next(readings, 120.0))
        return seen[-1]

    monkeypatch.setattr(module, "_device_mb", reading)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    with DeviceWatch() as watch:
        while len(seen) < 4:
            pass
    assert watch.peak_mb == 80.5


def test_without_a_gpu_there_is_no_device_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with DeviceWatch() as watch:
        pass
    assert watch.peak_mb is None


def test_device_memory_is_summed_and_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "nvidia_smi", lambda fields: ["100 MiB", "20 MiB"])
    assert module._device_mb() == pytest.approx(120 * 1.048576)
    assert np.isfinite(peak.resident_mb())
