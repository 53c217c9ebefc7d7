#!/usr/bin/env python3
"""Drive a whole station with many triggers and injected faults, and print the figures of its promises; see HELP."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "tests")]

import numpy as np  # noqa: E402 - needs the line above

from cmdiad_line.records.verifying import verify_file  # noqa: E402
from cmdiad_line.transport.messages import Result  # noqa: E402
from cmdiad_runtime.bundle.bundle import Bundle  # noqa: E402
from cmdiad_runtime.inspection.inputs import cloud_candidates, list_inputs, read_sample  # noqa: E402
from cmdiad_runtime.inspection.inspector import Inspector  # noqa: E402
from cmdiad_runtime.support.command_line import run_command  # noqa: E402
from stations import RunningStation, running_station, write_station_file  # noqa: E402

HELP = """Run a station on BUNDLE with a simulated sensor on the samples in DATA, and trigger it many times.

The script takes the place of the PLC process; sensors, inspection and records are the real processes. A share of the
triggers has a fault: of the sensor, of a process (SIGKILL, SIGSTOP), or of the disk. Every result is compared with that
of `Inspector.inspect` on the sample that the acquisition id stands for.

\b
scripts/station_soak.py gear.cmdiad demo/data/gear/test --triggers 100000

One JSON object with the figures goes to stdout. Exit codes: 0 every promise holds, 1 a promise is broken or no score
was compared.
"""
IN_MEMORY = 32
"""Number of samples that the simulated sensor keeps in memory."""
SENSOR_FAULTS = ("stale", "swap", "lose", "error", "unplug", "crash", "repeat")
PROCESS_FAULTS = ("kill inspection", "kill acquisition", "kill records", "freeze inspection", "full disk", "drop plc")
NEVER_OK = ("stale", "swap", "lose", "error", "unplug", "crash", "repeat", "freeze inspection", "full disk")
"""Faults after which the verdict OK would be wrong for the part itself."""


@dataclass
class Figures:
    """Results and durations of a run."""

    triggers: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    wrong_ok: list[int] = field(default_factory=list)
    wrong_part: list[int] = field(default_factory=list)
    compared: int = 0
    overheads_ms: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    restarts_s: dict[str, list[float]] = field(default_factory=dict)
    processes: dict[str, list[dict[str, int]]] = field(default_factory=dict)


@click.command("station_soak.py", help=HELP)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, resolve_path=True))
@click.argument("data", type=click.Path(path_type=Path, exists=True, resolve_path=True))
@click.option("--triggers", type=click.IntRange(1), default=1000, show_default=True, help="Number of triggers.")
@click.option(
    "--faults", type=click.FloatRange(0, 1), default=0.02, show_default=True, help="Share of triggers with a fault."
)
@click.option("--deadline-ms", type=int, default=1000, show_default=True, help="Deadline of the station.")
@click.option("--seed", type=int, default=18, show_default=True, help="Seed of the faults.")
def cli(bundle: Path, data: Path, **options: Any) -> int:
    """See HELP."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="station-soak-") as folder:
        modality = Bundle.open(bundle).preprocessing.modality
        samples = copy_samples(modality, data, Path(folder) / "samples")
        expected = inspect_samples(bundle, samples)
        settings = {"deadline_ms": options["deadline_ms"], "hang_ms": 500, "frame_megapixels": 1.0}
        source = {"delivers": modality, "unplug_ms": 300, "timeout_ms": 400}
        file = write_station_file(Path(folder), bundle, samples, station=settings, source=source)
        with running_station(file) as station:
            station.plc.wait_ready()
            drive(station, expected, figures, options)
        verified = verify_file(Path(folder) / "state" / "records.sqlite")
    report = make_report(figures, expected, options["deadline_ms"])
    report |= count_results(station, figures.triggers)
    report |= {"rows missing": figures.triggers - verified.rows["results"], "chain": verified.problem or "whole"}
    print(json.dumps(report, indent=1))
    zero = ("missing results", "double results", "wrong part", "wrong OK", "late verdicts", "rows missing")
    kept = not any(report[name] for name in zero) and not verified.problem
    return 0 if kept and report["scores compared"] else 1


@dataclass(frozen=True)
class Expected:
    """Result of `Inspector.inspect` for a sample.

    Attributes:
        verdict: Verdict.
        score: Score.
        total_ms: Duration.
        rest_ms: Duration without those of "preprocess" and "engine", which a result of the station contains too.
    """

    verdict: str
    score: float
    total_ms: float
    rest_ms: float


def copy_samples(modality: str, data: Path, target: Path) -> Path:
    """Copy as many samples as the simulated sensor keeps in memory, so that reading files is not measured."""
    paths = list_inputs([data], modality)
    for number, path in enumerate(paths[:: -(-len(paths) // IN_MEMORY)]):
        for file in [path, *(entry for entry in cloud_candidates(path) if modality == "both" and entry.is_file())]:
            folder = target / ("xyz" if file != path or modality == "xyz" else "rgb")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / f"{number:03}{file.suffix}")
    return target


def inspect_samples(bundle: Path, data: Path) -> list[Expected]:
    """Inspect every sample three times, in the order of the sensor; return the results with the median duration."""
    results = []
    with Inspector.open(bundle) as inspector:
        preprocessing = inspector.bundle.preprocessing
        for path in list_inputs([data], preprocessing.modality):
            sample, times = read_sample(path, preprocessing), []
            for turn in range(3):
                start = time.perf_counter()
                inspection = inspector.inspect(replace(sample, name=f"{path} {turn}"))
                total_ms = (time.perf_counter() - start) * 1e3
                times.append((total_ms, total_ms - sum(inspection.timings_ms.values())))
                if turn == 0:  # The third identical frame in a row is NG, as from a camera that is frozen.
                    verdict, score = inspection.verdict, inspection.score
            total_ms, rest_ms = sorted(times)[1]
            results.append(Expected(verdict, score, total_ms, rest_ms))
    return results


def drive(station: RunningStation, expected: list[Expected], figures: Figures, options: dict[str, Any]) -> None:
    """Trigger, inject faults, and compare every result."""
    draw = random.Random(options["seed"])  # noqa: S311 - faults, no secrets
    marks = {min(200, options["triggers"] // 4), options["triggers"] - 1}
    while figures.triggers < options["triggers"]:
        if figures.triggers in marks:
            note_processes(station, figures)
        fault = draw.choice((*SENSOR_FAULTS, *PROCESS_FAULTS)) if draw.random() < options["faults"] else ""
        figures.faults[fault or "none"] += 1
        figures.triggers += 1
        start = time.perf_counter()
        result = trigger_with_fault(station, fault, draw)
        latency_ms = (time.perf_counter() - start) * 1e3
        compare(result, fault, expected, figures)
        if not fault and result.score is not None:
            inspecting_ms = result.timings_ms["preprocess"] + result.timings_ms["engine"]
            inspecting_ms += expected[result.acquisition_id % len(expected)].rest_ms
            figures.latencies_ms.append(latency_ms)
            figures.overheads_ms.append(latency_ms - inspecting_ms)
        if latency_ms > options["deadline_ms"]:
            figures.late_ms.append(round(latency_ms, 1))
        if fault:
            recover(station, fault, figures)


def trigger_with_fault(station: RunningStation, fault: str, draw: random.Random) -> Result:
    """Trigger once, with a fault before or during the part, and return the result."""
    kind, _, name = fault.partition(" ")
    if fault in SENSOR_FAULTS:
        station.faults.write_text(f"{fault}\n", encoding="utf-8")
    if kind == "freeze":
        with station.frozen(name):
            return station.plc.inspect()
    if fault == "full disk":
        process = station.pid("records")
        limits = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            return station.plc.inspect()
        finally:
            with suppress(ProcessLookupError):
                resource.prlimit(process, resource.RLIMIT_FSIZE, limits)
    part = station.plc.trigger()
    if kind in ("kill", "drop"):
        time.sleep(draw.random() * 0.02)
    if kind == "kill":
        with suppress(ProcessLookupError, AssertionError):
            os.kill(station.pid(name), signal.SIGKILL)
    elif kind == "drop":
        station.plc.drop()
    return station.plc.result(part)


def recover(station: RunningStation, fault: str, figures: Figures) -> None:
    """Wait until the station is ready again, and note how long that took."""
    start = time.perf_counter()
    if fault.startswith(("kill", "freeze")) or fault == "crash":
        ends = station.plc.state().counters["restarts"]
        limit = time.monotonic() + 2  # A killed process may have ended before this line.
        while station.plc.state().counters["restarts"] == ends and time.monotonic() < limit:
            if station.plc.state().phase != "ready":
                break
            time.sleep(0.002)
    station.plc.wait_ready()
    figures.restarts_s.setdefault(fault, []).append(time.perf_counter() - start)


def compare(result: Result, fault: str, expected: list[Expected], figures: Figures) -> None:
    """Compare a result with that of the sample that the acquisition id stands for."""
    sample = expected[result.acquisition_id % len(expected)]
    figures.verdicts[f"{result.verdict} {result.reason}".strip()] += 1
    if result.verdict == "OK" and (sample.verdict != "OK" or fault in NEVER_OK):
        figures.wrong_ok.append(result.acquisition_id)
    if result.score is not None and fault not in SENSOR_FAULTS:
        figures.compared += 1
        if not np.isclose(result.score, sample.score, rtol=1e-4):
            figures.wrong_part.append(result.acquisition_id)


def note_processes(station: RunningStation, figures: Figures) -> None:
    """Note memory, handles and threads of every process."""
    for name in ("records", "acquisition", "inspection"):
        figures.processes.setdefault(name, []).append(figures_of(station.pid(name)))
    figures.processes.setdefault("supervisor and this script", []).append(figures_of(os.getpid()))


def figures_of(process: int) -> dict[str, int]:
    """Return memory in kB, open handles and threads of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {
        "pid": process,
        "resident kB": int(lines["VmRSS"].split()[0]),
        "handles": sum(1 for _ in Path(f"/proc/{process}/fd").iterdir()),
        "threads": int(lines["Threads"]),
    }


def count_results(station: RunningStation, triggers: int) -> dict[str, int]:
    """Return the numbers of triggers without a result, and of results that came twice."""
    numbers = [sum(not result.replayed for result in results) for results in station.plc.results.values()]
    return {"missing results": triggers - len(numbers), "double results": sum(number > 1 for number in numbers)}


def make_report(figures: Figures, expected: list[Expected], deadline_ms: int) -> dict[str, Any]:
    """Return the figures as a JSON object."""
    return {
        "triggers": figures.triggers,
        "deadline ms": deadline_ms,
        "faults": dict(figures.faults),
        "verdicts": dict(figures.verdicts),
        "wrong OK": figures.wrong_ok,
        "scores compared": figures.compared,
        "wrong part": figures.wrong_part,
        "late verdicts": figures.late_ms,
        "Inspector.inspect ms": percentiles([sample.total_ms for sample in expected]),
        "trigger to result ms": percentiles(figures.latencies_ms),
        "overhead ms": percentiles(figures.overheads_ms),
        "ready again s": {fault: percentiles(seconds) for fault, seconds in sorted(figures.restarts_s.items())},
        "processes at the start and at the end": figures.processes,
    }


def percentiles(values: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum."""
    if not values:
        return {}
    array = np.array(values)
    return {
        "p50": round(float(np.median(array)), 3),
        "p99": round(float(np.percentile(array, 99)), 3),
        "max": round(float(array.max()), 3),
    }


if __name__ == "__main__":
    run_command(cli, "station_soak.py")
