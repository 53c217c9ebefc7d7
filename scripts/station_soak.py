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
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "tests")]

import numpy as np  # noqa: E402 - needs the line above
from soak_figures import Figures  # noqa: E402

from cmdiad_line.records.verifying import verify_file  # noqa: E402
from cmdiad_line.transport.messages import Result  # noqa: E402
from cmdiad_line.worker import REAL_TIME  # noqa: E402
from cmdiad_runtime.bundle.bundle import Bundle  # noqa: E402
from cmdiad_runtime.inspection.inputs import cloud_candidates, list_inputs, read_sample  # noqa: E402
from cmdiad_runtime.inspection.inspector import Inspector  # noqa: E402
from cmdiad_runtime.support.command_line import run_command  # noqa: E402
from cmdiad_runtime.support.progress import TerminalReporter  # noqa: E402
from cmdiad_runtime.support.scheduling import real_time_priority  # noqa: E402
from stations import RunningStation, running_station, write_station_file  # noqa: E402

HELP = """Run a station on BUNDLE with a simulated sensor on the samples in DATA, and trigger it many times.

The script takes the place of the PLC process; sensors, inspection and records are the real processes. A share of the
triggers has a fault: of the sensor, of a process (SIGKILL, SIGSTOP), or of the disk. Every result is compared with that
of `Inspector.inspect` on the sample that the acquisition id stands for. The first and the last triggers have no faults:
memory, handles and threads of each process are compared between the two.

Times are measured from the second pass over the samples on: in the first one the simulated sensor reads their files,
which no camera does. With `--in-flight 2` the next part is captured while the one before is inspected, which is faster
but measures no overhead. Ctrl-C or SIGTERM ends the run in order, with the report about the parts until then.

\b
scripts/station_soak.py gear.cmdiad demo/data/gear/test --triggers 3000 --faults 0
scripts/station_soak.py gear.cmdiad demo/data/gear/test --triggers 100000 --in-flight 2

One JSON object with the figures goes to stdout. Exit codes: 0 every promise holds, 1 a promise is broken or no score
was compared, 130 interrupted.
"""
IN_MEMORY = 32
"""Number of samples that the simulated sensor keeps in memory."""
WARM = 200
"""Number of triggers without faults at the beginning and at the end, after which the processes are compared."""
SWITCH_S = 0.0005
"""Longest time in seconds for which the PLC and the supervisor, two threads here, keep each other from running."""
ALONE = 3
"""Number of inspections of each sample in the plain loops before and after."""
SENSOR_FAULTS = ("stale", "swap", "lose", "error", "unplug", "crash", "repeat")
PROCESS_FAULTS = ("kill inspection", "kill acquisition", "kill records", "freeze inspection", "full disk", "drop plc")
NEVER_OK = ("stale", "swap", "lose", "error", "unplug", "crash", "repeat", "freeze inspection", "full disk")
"""Faults after which the verdict OK would be wrong for the part itself."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run, see HELP."""

    triggers: int
    faults: float
    in_flight: int
    deadline_ms: int
    seed: int

    @property
    def warm(self) -> int:
        """Return the number of triggers without faults at the beginning, and at the end."""
        return min(WARM, self.triggers // 4)


@dataclass(frozen=True)
class Expected:
    """Result of `Inspector.inspect` for a sample."""

    verdict: str
    score: float


@click.command("station_soak.py", help=HELP)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, resolve_path=True))
@click.argument("data", type=click.Path(path_type=Path, exists=True, resolve_path=True))
@click.option("--triggers", type=click.IntRange(1), default=1000, show_default=True, help="Number of triggers.")
@click.option(
    "--faults", type=click.FloatRange(0, 1), default=0.02, show_default=True, help="Share of triggers with a fault."
)
@click.option(
    "--in-flight", type=click.IntRange(1, 4), default=1, show_default=True, help="Largest number of parts in work."
)
@click.option("--deadline-ms", type=int, default=1000, show_default=True, help="Deadline of the station.")
@click.option("--seed", type=int, default=18, show_default=True, help="Seed of the faults.")
def cli(bundle: Path, data: Path, **values: Any) -> int:
    """See HELP."""
    options, figures = Options(**values), Figures()
    with tempfile.TemporaryDirectory(prefix="station-soak-") as folder, noted_interrupt() as interrupted:
        modality = Bundle.open(bundle).preprocessing.modality
        samples = copy_samples(modality, data, Path(folder) / "samples")
        expected = inspect_samples(bundle, samples, figures)
        settings = {"deadline_ms": options.deadline_ms, "hang_ms": 500, "frame_megapixels": 1.0, "frame_slots": 16}
        settings["max_in_work"] = max(2, options.in_flight)
        source = {"delivers": modality, "unplug_ms": 300, "timeout_ms": 400}
        file = write_station_file(Path(folder), bundle, samples, station=settings, source=source)
        # This process takes the place of the PLC process, so it has the priority of one.
        with real_time_priority(REAL_TIME), running_station(file) as station:
            station.plc.wait_ready()
            sys.setswitchinterval(SWITCH_S)
            Drive(station, expected, figures, options).run(interrupted)
        inspect_samples(bundle, samples, figures)
        verified = verify_file(Path(folder) / "state" / "records.sqlite")
    report = {"deadline ms": options.deadline_ms, "in flight": options.in_flight} | figures.report()
    report["double results"] = doubles(station)
    report |= {"rows missing": figures.triggers - verified.rows["results"], "chain": verified.problem or "whole"}
    print(json.dumps(report, indent=1))
    zero = ("missing results", "double results", "wrong part", "wrong OK", "late verdicts", "rows missing", "grown")
    kept = not any(report[name] for name in zero) and not verified.problem and figures.compared > 0
    return 1 if not kept else 130 if interrupted.is_set() else 0


@contextmanager
def noted_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets. The second one ends the script as usual."""
    interrupted = threading.Event()
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        interrupted.set()
        restore()

    for number in usual:
        signal.signal(number, note)
    try:
        yield interrupted
    finally:
        restore()


def copy_samples(modality: str, data: Path, target: Path) -> Path:
    """Copy as many samples as the simulated sensor keeps in memory, so that reading files is not measured."""
    paths = list_inputs([data], modality)
    for number, path in enumerate(paths[:: -(-len(paths) // IN_MEMORY)]):
        for file in [path, *(entry for entry in cloud_candidates(path) if modality == "both" and entry.is_file())]:
            folder = target / ("xyz" if file != path or modality == "xyz" else "rgb")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / f"{number:03}{file.suffix}")
    return target


def inspect_samples(bundle: Path, data: Path, figures: Figures) -> list[Expected]:
    """Inspect every sample ALONE times, in the order of the sensor; note the durations and return the results."""
    results = []
    with Inspector.open(bundle) as inspector:
        preprocessing = inspector.bundle.preprocessing
        for path in list_inputs([data], preprocessing.modality):
            sample = read_sample(path, preprocessing)
            for turn in range(ALONE):
                start = time.perf_counter()
                inspection = inspector.inspect(replace(sample, name=f"{path} {turn}"))
                figures.alone_ms.append((time.perf_counter() - start) * 1e3)
                if turn == 0:  # The third identical frame in a row is NG, as from a camera that is frozen.
                    results.append(Expected(inspection.verdict, inspection.score))
    return results


class Drive:
    """Triggers, faults, and the comparison of every result.

    Args:
        station: The station.
        expected: Result of each sample of the simulated sensor.
        figures: Figures to add to.
        options: Options of the run.
    """

    def __init__(self, station: RunningStation, expected: list[Expected], figures: Figures, options: Options) -> None:
        self._station, self._expected, self._figures, self._options = station, expected, figures, options
        self._draw = random.Random(options.seed)  # noqa: S311 - faults, no secrets
        self._in_flight: deque[tuple[int, float]] = deque()

    def run(self, interrupted: threading.Event) -> None:
        """Trigger as often as the options say, or until somebody interrupts."""
        reporter, total, warm = TerminalReporter(), self._options.triggers, self._options.warm
        fault = ""
        for number in range(total):
            if interrupted.is_set():
                break
            if number == warm:
                self._note_processes()
            # No fault follows another one: only a sensor that has delivered since it was connected can repeat a frame.
            fault = self._fault() if not fault and warm <= number < total - warm else ""
            self._figures.faults[fault or "none"] += 1
            self._figures.triggers += 1
            if fault:
                self._collect(0)
                self._disturb(fault)
                recover(self._station, fault, self._figures)
            else:
                self._trigger()
            faults = self._figures.triggers - self._figures.faults["none"]
            reporter.step(f"trigger ({faults} faults)", number + 1, total)
        self._collect(0)
        self._note_processes()

    def _fault(self) -> str:
        """Return a fault for the next trigger, or ""."""
        if self._draw.random() >= self._options.faults:
            return ""
        return self._draw.choice((*SENSOR_FAULTS, *PROCESS_FAULTS))

    def _trigger(self) -> None:
        """Trigger as soon as the sensor is free, and collect the results that leave room for the next part."""
        start = time.perf_counter()
        part = self._station.plc.trigger()
        self._in_flight.append((part, start))
        if self._options.in_flight > 1:
            self._station.plc.wait_captured(part)
        self._collect(self._options.in_flight - 1)

    def _collect(self, left: int) -> None:
        """Wait for results, oldest part first, until a number of parts is left in work."""
        while len(self._in_flight) > left:
            self._take(*self._in_flight.popleft(), "")

    def _disturb(self, fault: str) -> None:
        """Trigger with a fault, while no other part is in work, and wait for the result."""
        with fault_around(self._station, fault):
            start = time.perf_counter()
            part = self._station.plc.trigger()
            fault_during(self._station, fault, self._draw)
            self._take(part, start, fault)
        if self._station.faults.exists():  # The trigger was refused, and the next one must not take the fault.
            self._station.faults.unlink()
            self._figures.unused_faults += 1

    def _take(self, part: int, start: float, fault: str) -> None:
        """Wait for the result of a part, and compare it with that of its sample."""
        plc, figures = self._station.plc, self._figures
        try:
            result = plc.result(part)
        except AssertionError:
            figures.missing.append(part)
            return
        latency_ms = (plc.arrived[part] - start) * 1e3
        if latency_ms > self._options.deadline_ms:
            figures.late_ms.append(round(latency_ms, 1))
        self._compare(result, fault)
        files_in_memory = figures.triggers > len(self._expected)
        if not fault and result.score is not None and self._options.in_flight == 1 and files_in_memory:
            figures.add_times(result, latency_ms)
        plc.forget(part)

    def _compare(self, result: Result, fault: str) -> None:
        figures, sample = self._figures, self._expected[result.acquisition_id % len(self._expected)]
        figures.verdicts[f"{result.verdict} {result.reason}".strip()] += 1
        if result.verdict == "OK" and (sample.verdict != "OK" or fault in NEVER_OK):
            figures.wrong_ok.append(result.acquisition_id)
        if result.score is not None and fault not in SENSOR_FAULTS:
            figures.compared += 1
            if not np.isclose(result.score, sample.score, rtol=1e-4):
                details = {"fault": fault, "score": result.score, "expected": sample.score, "verdict": result.verdict}
                figures.wrong_part.append({"part": result.acquisition_id, **details})

    def _note_processes(self) -> None:
        for name in ("records", "acquisition", "inspection"):
            self._figures.note_process(name, self._station.pid(name))
        self._figures.note_process("supervisor and this script", os.getpid())


@contextmanager
def fault_around(station: RunningStation, fault: str) -> Iterator[None]:
    """Keep up a fault that begins before the trigger, until the block ends with the result."""
    kind, _, name = fault.partition(" ")
    with ExitStack() as stack:
        if fault in SENSOR_FAULTS:
            station.faults.write_text(f"{fault}\n", encoding="utf-8")
        elif kind == "freeze":
            stack.enter_context(station.frozen(name))
        elif fault == "full disk":
            stack.enter_context(full_disk(station.pid("records")))
        yield


@contextmanager
def full_disk(process: int) -> Iterator[None]:
    """Let a process write no file beyond 4096 bytes."""
    limits = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(process, resource.RLIMIT_FSIZE, limits)


def fault_during(station: RunningStation, fault: str, draw: random.Random) -> None:
    """Kill a process, or end the PLC process, at a random moment after the trigger."""
    kind, _, name = fault.partition(" ")
    if kind not in ("kill", "drop"):
        return
    time.sleep(draw.random() * 0.02)
    if kind == "drop":
        station.plc.drop()
    else:
        with suppress(ProcessLookupError, AssertionError):
            os.kill(station.pid(name), signal.SIGKILL)


def recover(station: RunningStation, fault: str, figures: Figures) -> None:
    """Wait until the station is ready again, and note how long that took."""
    start = time.perf_counter()
    if fault.startswith(("kill", "freeze")) or fault in ("crash", "unplug"):
        ends = station.plc.state().counters["restarts"]
        # The state comes after the result. A killed process may have ended before this line.
        limit = time.monotonic() + 2
        while station.plc.state().counters["restarts"] == ends and time.monotonic() < limit:
            if station.plc.state().phase != "ready":
                break
            time.sleep(0.002)
    station.plc.wait_ready()
    figures.restarts_s.setdefault(fault, []).append(time.perf_counter() - start)


def doubles(station: RunningStation) -> int:
    """Return the number of results that came after the result of the same part, except those sent again on purpose."""
    return sum(not result.replayed for results in station.plc.results.values() for result in results)


if __name__ == "__main__":
    run_command(cli, "station_soak.py")
