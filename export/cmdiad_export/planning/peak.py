"""Print the peak memory of one graph in megabytes: `python -m cmdiad_export.planning.peak GRAPH INPUTS.npz`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmdiad_runtime.engines import open_engine

RUNS = 3
STATUS = Path("/proc/self/status")


def resident_mb(which: str = "VmRSS") -> float:
    """Return the resident memory of this process in 10⁶ bytes: now (`VmRSS`) or the peak so far (`VmHWM`)."""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == which:
            return round(int(value.split()[0]) * 1024 / 1e6, 1)
    raise OSError(f"{STATUS} has no {which}: peak memory can be measured on Linux only")


def main(arguments: Sequence[str]) -> None:
    """Run a graph three times and print the peak resident memory in 10⁶ bytes."""
    graph, inputs = map(Path, arguments)
    with np.load(inputs, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    engine = open_engine(graph)
    for _ in range(RUNS):
        engine.run(arrays)
    engine.close()
    sys.stdout.write(f"{resident_mb('VmHWM')}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
