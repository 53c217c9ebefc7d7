"""Measure how long a bundle takes from file to verdict, by stage, one at a time or pipelined, against a takt time."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_bench.detector import family_name, family_settings
from cmdiad_bench.machine import describe_machine
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.inspection.inputs import read_sample
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.pipeline import InspectedSource, inspect_stream
from cmdiad_runtime.names import INSPECTION_STAGES
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import LeftOut
from cmdiad_train.datasets.left_out import describe as describe_left_out

STAGES = ("decode", *INSPECTION_STAGES, "post")
PERCENTILES = (50, 90, 95, 99)
TAKT_PERCENTILE = 99
WARM_UP = 5


@dataclass(frozen=True)
class LatencyOptions:
    """Settings of a latency measurement.

    Attributes:
        runs: Samples to measure, after five to warm up.
        seconds: Time after which the measurement stops even if fewer samples were measured.
        pipeline: Prepare the next samples while the engine works.
        takt_ms: Time that the line allows for each part; see `judge_takt`. None skips the check.
    """

    runs: int = 1000
    seconds: float = 60.0
    pipeline: bool = False
    takt_ms: float | None = None


Stream = Generator[dict[str, float], None, None]
Times = list[dict[str, float]]
"""Milliseconds of each sample by stage, and `total`; pipelined also `interval`."""


def measure_latency(
    inspector: Inspector, files: Sequence[Path], options: LatencyOptions, reporter: Reporter
) -> dict[str, Any]:
    """Measure milliseconds per sample, by stage and from file to verdict, and samples per second.

    Files that cannot be read or inspected are left out of the times, and `not_inspected` has their reasons.

    One at a time, the total is decode + preprocess + engine + map: the time until the verdict. `post`, the drawing of
    the overlay, comes after the verdict. Pipelined, the total includes the wait for the engine, and `interval` is the
    time from one verdict to the next.

    Args:
        inspector: Open bundle.
        files: Input files, taken in turn.
        options: Number of samples, time limit, pipeline and takt.
        reporter: Receiver of the progress.

    Returns:
        `total_ms` and `stages_ms` as `{mean, p50, p90, p95, p99, max}`, `per_second`, the number of runs, the limit
        that ended them, the result of the takt check, and a description of bundle and machine.

    Raises:
        InputError: None of the files can be inspected.
    """
    machine = describe_machine()  # read before the measurement itself causes load
    measure = _pipelined if options.pipeline else _one_by_one
    failed: dict[str, Inspection] = {}
    times, elapsed = _collect(measure(inspector, _in_turn(files, failed), failed), options, reporter)
    if not times:
        raise _nothing_inspected(files, failed)
    for line in _lines(files, failed):
        reporter.say(line)
    columns = {name: np.array([sample_times[name] for sample_times in times]) for name in times[0]}
    takt_ms = options.takt_ms
    return {
        "runs": len(times),
        "ended_by": "runs" if len(times) == options.runs else "seconds",
        "files": len(files),
        "not_inspected": {name: inspection.reason for name, inspection in failed.items()},
        "pipeline": options.pipeline,
        "total_ms": _percentiles(columns["total"]),
        "stages_ms": {stage: _percentiles(columns[stage]) for stage in STAGES},
        "interval_ms": _percentiles(columns["interval"]) if options.pipeline else None,
        "per_second": round(len(times) / elapsed, 3),
        "takt": None if takt_ms is None else judge_takt(columns["interval" if options.pipeline else "total"], takt_ms),
        **describe(inspector),
        "machine": machine,
    }


def judge_takt(values: npt.NDArray[np.float64], takt_ms: float) -> dict[str, Any]:
    """Check that 99 of 100 parts stay within the takt, by file-to-verdict times or, pipelined, by intervals.

    Returns:
        `takt_ms`, `p99_ms`, `passed`, and `late`, the number of parts that took longer than the takt.
    """
    p99 = float(np.percentile(values, TAKT_PERCENTILE))
    return {
        "takt_ms": takt_ms,
        "p99_ms": round(p99, 3),
        "passed": p99 <= takt_ms,
        "late": int((values > takt_ms).sum()),
    }


def describe(inspector: Inspector) -> dict[str, Any]:
    """Describe bundle and machine in a record that can be compared later.

    `family`, `variant` and `hallucination` are None where the recipe does not have them.
    """
    record = inspector.bundle.record
    settings = family_settings(record.recipe)
    return {
        "bundle": record.name,
        "modality": inspector.bundle.preprocessing.modality_name,
        "family": family_name(record.recipe),
        "variant": settings.get("variant"),
        "hallucination": settings.get("hallucination"),
        "precision": inspector.bundle.precision,
        "banks": [list(shape) for shape in record.graph.banks],
        "engine": inspector.engine.description,
        "machine": describe_machine(),
    }


def _collect(measured: Stream, options: LatencyOptions, reporter: Reporter) -> tuple[Times, float]:
    """Return the times of the samples after the warm-up, at least one if any can be inspected, and the seconds."""
    times: Times = []
    with closing(measured):
        for _ in islice(measured, WARM_UP):
            pass
        start = time.monotonic()
        for sample_times in measured:
            times.append(sample_times)
            reporter.step("inspect", len(times), options.runs)
            if len(times) == options.runs or time.monotonic() - start >= options.seconds:
                break
        return times, time.monotonic() - start


def _in_turn(files: Sequence[Path], failed: Mapping[str, Inspection]) -> Iterator[Path]:
    """Yield the files in turn for ever, without those that failed; stop if all failed."""
    while True:
        usable = [file for file in files if str(file) not in failed]
        if not usable:
            return
        yield from usable


def _one_by_one(inspector: Inspector, files: Iterator[Path], failed: dict[str, Inspection]) -> Stream:
    for file in files:
        times: dict[str, float] = {}
        with _timed(times, "decode"):
            sample = guarded(str(file), partial(read_sample, file, inspector.bundle.preprocessing))
        if isinstance(sample, InputError):
            failed[str(file)] = inspector.not_inspected(str(file), sample)
            continue
        inspection = inspector.inspect(sample)
        if not inspection.inspected:
            failed[str(file)] = inspection
            continue
        times |= inspection.timings_ms
        times["total"] = sum(times.values())
        yield times | _post(inspection)


def _pipelined(inspector: Inspector, files: Iterator[Path], failed: dict[str, Inspection]) -> Stream:
    last = time.perf_counter()
    with closing(inspect_stream(inspector, files)) as outcomes:
        for outcome in outcomes:
            now = time.perf_counter()
            if outcome.inspection.inspected:
                yield _stages_of(outcome) | {"interval": (now - last) * 1e3}
            else:
                failed[str(outcome.source)] = outcome.inspection
            last = now


def _nothing_inspected(files: Sequence[Path], failed: Mapping[str, Inspection]) -> InputError:
    first = next(iter(failed.values()))
    return InputError(
        files[0].parent,
        found=f"{len(files)} files of which none can be inspected",
        expected="files like those of the training",
        action=f"Pass other files; the first: {first.message}",
        reason=first.reason or "internal",
    )


def _lines(files: Sequence[Path], failed: Mapping[str, Inspection]) -> Iterator[str]:
    left_out = [LeftOut(name, "test", i.reason or "internal", i.message) for name, i in failed.items()]
    return describe_left_out(left_out, len(files), "files", problem="could not be inspected and are left out")


def _stages_of(outcome: InspectedSource) -> dict[str, float]:
    inspection = outcome.inspection
    times = {"decode": outcome.read_ms, **inspection.timings_ms, "total": outcome.latency_ms}
    return times | _post(inspection)


def _post(inspection: Inspection) -> dict[str, float]:
    times: dict[str, float] = {}
    with _timed(times, "post"):
        inspection.overlay()
    return times


@contextmanager
def _timed(times: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[stage] = (time.perf_counter() - start) * 1e3


def _percentiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    percentiles = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {
        k: round(v, 3) for k, v in {"mean": float(values.mean()), **percentiles, "max": float(values.max())}.items()
    }
