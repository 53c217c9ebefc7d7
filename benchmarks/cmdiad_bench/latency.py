"""How long a bundle takes from file to verdict, stage by stage."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cmdiad_runtime.inputs import read_sample
from cmdiad_runtime.inspector import Inspector
from cmdiad_runtime.results import draw_overlay

STAGES = ("read", "preprocess", "engine", "overlay")
PERCENTILES = (50, 90, 95, 99)
WARM_UP = 5


def measure_latency(
    inspector: Inspector,
    files: Sequence[Path],
    *,
    runs: int,
    seconds: float,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Milliseconds per sample, one sample at a time, by stage and from file to verdict.

    Args:
        inspector: an open bundle.
        files: inputs, taken in turn.
        runs: samples to measure, after five to warm up.
        seconds: stop earlier after this time.
        progress: told how many are done.

    Returns:
        `total` (read + preprocess + engine, what the verdict waits for) and each stage as
        `{mean, p50, p90, p95, p99, max}` in ms, the number of runs, and what it ran on.
    """
    samples: list[dict[str, float]] = []
    for i in range(WARM_UP):
        _inspect_timed(inspector, files[i % len(files)])
    deadline = time.monotonic() + seconds
    while len(samples) < runs and (not samples or time.monotonic() < deadline):
        samples.append(_inspect_timed(inspector, files[len(samples) % len(files)]))
        progress("inspect", len(samples), runs)
    stages = {stage: np.array([s[stage] for s in samples]) for stage in STAGES}
    total = stages["read"] + stages["preprocess"] + stages["engine"]
    return {
        "runs": len(samples),
        "files": len(files),
        "total_ms": _percentiles(total),
        "stages_ms": {stage: _percentiles(values) for stage, values in stages.items()},
        **describe(inspector),
    }


def describe(inspector: Inspector) -> dict[str, Any]:
    """The bundle and the machine, for a record that can be compared later."""
    manifest = inspector.bundle.manifest
    return {
        "bundle": inspector.bundle.name,
        "modality": inspector.bundle.preprocessing.modality,
        "hallucination": manifest["recipe"]["hallucination"],
        "precision": inspector.bundle.precision,
        "banks": manifest["graph"]["banks"],
        "engine": inspector.engine.description,
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
    }


def _inspect_timed(inspector: Inspector, file: Path) -> dict[str, float]:
    times: dict[str, float] = {}
    with _timed(times, "read"):
        sample = read_sample(file, inspector.bundle.preprocessing)
    inspection = inspector.inspect(sample)
    with _timed(times, "overlay"):
        draw_overlay(sample, inspection, inspector.bundle.calibration.map_threshold)
    return {**times, **inspection.timings_ms}


@contextmanager
def _timed(times: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[stage] = (time.perf_counter() - start) * 1e3


def _percentiles(values: Any) -> dict[str, float]:
    found = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {k: round(v, 3) for k, v in {"mean": float(values.mean()), **found, "max": float(values.max())}.items()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
