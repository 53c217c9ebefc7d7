"""The process whose memory a plan measures: `python -m cmdiad_export.peak GRAPH INPUTS.npz` prints megabytes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmdiad_runtime.engines import open_engine

RUNS = 3
STATUS = Path("/proc/self/status")


def main(arguments: Sequence[str]) -> None:
    """Run a graph three times and print the most memory that was resident, in 10⁶ bytes."""
    graph, inputs = map(Path, arguments)
    with np.load(inputs, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    engine = open_engine(graph)
    for _ in range(RUNS):
        engine.run(arrays)
    engine.close()
    (line,) = (line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    sys.stdout.write(f"{int(line.split()[1]) * 1024 / 1e6:.1f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
