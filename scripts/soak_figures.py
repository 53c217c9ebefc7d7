"""Figures of a run of scripts/station_soak.py, and the report about them."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmdiad_line.transport.messages import Result

MORE_MEMORY = 0.2
"""Tolerance: share by which the resident memory of a process may grow between the two marks of a run."""
MORE_HANDLES = 2
"""Tolerance: number of handles by which a process may grow. A file may be open at the moment of the second mark."""
STAGES = ("capture the frame", "inspect", "to and from the detector", "store the row", "publish")


def _numbers() -> array[float]:
    return array("d")  # Eight bytes for each trigger, so that this script itself stays small.


@dataclass
class Figures:
    """Results and durations of a run.

    Attributes:
        triggers: Number of triggers.
        faults: Number of triggers by fault.
        unused_faults: Number of sensor faults that did not happen, because the trigger was refused.
        verdicts: Number of results by verdict and reason.
        missing: Ids of parts without a result.
        wrong_ok: Ids of parts with a wrong OK.
        wrong_part: Parts with a score that is not that of their sample: id, fault, verdict, both scores.
        compared: Number of scores that were compared.
        alone_ms: Durations of `Inspector.inspect` in a plain loop, before and after the station ran.
        latencies_ms: Time from the trigger to the result.
        overheads_ms: The same without the inspection itself.
        stages_ms: Parts of the latency, by STAGES.
        late_ms: Latencies above the deadline.
        restarts_s: Time until the station was ready again, by fault.
        processes: Figures of each process at the marks of the run.
    """

    triggers: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    unused_faults: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    missing: list[int] = field(default_factory=list)
    wrong_ok: list[int] = field(default_factory=list)
    wrong_part: list[dict[str, Any]] = field(default_factory=list)
    compared: int = 0
    alone_ms: array[float] = field(default_factory=_numbers)
    latencies_ms: array[float] = field(default_factory=_numbers)
    overheads_ms: array[float] = field(default_factory=_numbers)
    stages_ms: dict[str, array[float]] = field(default_factory=lambda: {stage: _numbers() for stage in STAGES})
    late_ms: list[float] = field(default_factory=list)
    restarts_s: dict[str, list[float]] = field(default_factory=dict)
    processes: dict[str, list[dict[str, int]]] = field(default_factory=dict)

    def add_times(self, result: Result, latency_ms: float) -> None:
        """Add the times of a part that was inspected.

        The overhead is the latency without the duration of `Inspector.inspect` for this very part, as the inspection
        process measured it. So an inspection that is slow by itself is no overhead of the station.
        """
        times = result.timings_ms
        self.latencies_ms.append(latency_ms)
        self.overheads_ms.append(latency_ms - times["detector"])
        parts = (
            times["acquired"],
            times["detector"],
            times["inspected"] - times["acquired"] - times["detector"],
            times["recorded"] - times["inspected"] if "recorded" in times else None,
            latency_ms - max(times.get("recorded", 0.0), times["inspected"]),
        )
        for stage, milliseconds in zip(STAGES, parts, strict=True):
            if milliseconds is not None:
                self.stages_ms[stage].append(milliseconds)

    def note_process(self, name: str, process: int) -> None:
        """Note memory, handles and threads of a process."""
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        self.processes.setdefault(name, []).append(
            {
                "resident kB": int(lines["VmRSS"].split()[0]),
                "handles": sum(1 for _ in Path(f"/proc/{process}/fd").iterdir()),
                "threads": int(lines["Threads"]),
            }
        )

    def grown(self) -> list[str]:
        """Return a line for each process that grew more than the tolerances allow."""
        lines = []
        for name, marks in self.processes.items():
            first, last = marks[0], marks[-1]
            allowed = {
                "resident kB": int(first["resident kB"] * (1 + MORE_MEMORY)),
                "handles": first["handles"] + MORE_HANDLES,
                "threads": first["threads"],
            }
            lines += [
                f"{name}: {kind} from {first[kind]} to {last[kind]}, allowed {limit}"
                for kind, limit in allowed.items()
                if last[kind] > limit
            ]
        return lines

    def report(self) -> dict[str, Any]:
        """Return the figures as a JSON object."""
        return {
            "triggers": self.triggers,
            "faults": dict(self.faults),
            "unused faults": self.unused_faults,
            "verdicts": dict(self.verdicts),
            "missing results": self.missing,
            "wrong OK": self.wrong_ok,
            "scores compared": self.compared,
            "wrong part": self.wrong_part,
            "late verdicts": self.late_ms,
            "Inspector.inspect alone ms": percentiles(self.alone_ms),
            "trigger to result ms": percentiles(self.latencies_ms),
            "overhead ms": percentiles(self.overheads_ms),
            "stages ms": {stage: percentiles(times) for stage, times in self.stages_ms.items()},
            "ready again s": {fault: percentiles(seconds) for fault, seconds in sorted(self.restarts_s.items())},
            "processes at the marks": self.processes,
            "grown": self.grown(),
        }


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return number, median, 99th percentile and maximum."""
    numbers = np.array(list(values))
    if not len(numbers):
        return {}
    return {
        "number": len(numbers),
        "p50": round(float(np.median(numbers)), 3),
        "p99": round(float(np.percentile(numbers, 99)), 3),
        "max": round(float(numbers.max()), 3),
    }
