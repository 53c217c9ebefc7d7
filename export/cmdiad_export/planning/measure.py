"""Measure latency, memory and results of graphs on held-out samples."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_export.search.held_out import HeldOut, RelativeResults, ResultChange, as_outputs
from cmdiad_export.search.searchable import searchable
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.certificate import search_tolerance
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.engines.graph_file import graph_bytes
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.runs.run import Run

Arrays = dict[str, npt.NDArray[Any]]

ROUNDS = 20


@dataclass(frozen=True)
class Measurement:
    """The measurements of one graph.

    Attributes:
        latency_ms: Median time of one inference in milliseconds.
        memory_mb: Peak resident memory of a separate process that runs the graph, in 10⁶ bytes.
        graph_mb: Size of the graph in 10⁶ bytes.
        change: Change from the detector as it was trained.
    """

    latency_ms: float
    memory_mb: float
    graph_mb: float
    change: ResultChange


class GraphBench:
    """Runs graphs on held-out samples.

    Args:
        run: Run as trained, the reference of changes.
        held_out: Held-out samples.
        folder: Existing folder for the inputs of the process that measures memory.

    Attributes:
        engine: Description of the engine that ran the graphs last, "" before.
    """

    def __init__(self, run: Run, held_out: HeldOut, folder: Path) -> None:
        self.held_out, self.engine = held_out, ""
        self._inputs = [{name: value.numpy() for name, value in sample.items()} for sample in held_out.inputs]
        self._reference = _results_in_torch(run, held_out)
        self._tolerance = search_tolerance(published_blur=run.detector.published_blur, verdict=run.calibration.verdict)
        self._sample = folder / "inputs.npz"
        np.savez(self._sample, allow_pickle=False, **self._inputs[0])

    def measure(self, graphs: Sequence[tuple[Path, Calibration]], reporter: Reporter = SILENT) -> list[Measurement]:
        """Measure graphs, each with its thresholds. Inferences go through all graphs in turn, sample by sample.

        Args:
            graphs: Graphs with the thresholds of their banks.
            reporter: Receiver of the progress.

        Raises:
            EngineError: A graph cannot be run.
        """
        times, outputs = self._run([path for path, _ in graphs], reporter)
        return [
            Measurement(
                statistics.median(spent),
                peak_megabytes(path, self._sample),
                graph_bytes(path) / 1e6,
                self._change(results, calibration),
            )
            for (path, calibration), spent, results in zip(graphs, times, outputs, strict=True)
        ]

    def _run(self, graphs: Sequence[Path], reporter: Reporter) -> tuple[list[list[float]], list[list[Arrays]]]:
        """Return milliseconds of all inferences, and the outputs of each sample, by graph."""
        inputs = self._inputs
        engines = [open_engine(graph) for graph in graphs]
        times: list[list[float]] = [[] for _ in engines]
        results: list[list[Arrays]] = [[] for _ in engines]
        for engine in engines:
            engine.run(inputs[0])
        turns = max(ROUNDS, len(inputs))
        for turn in range(turns):
            for engine, spent, returned in zip(engines, times, results, strict=True):
                start = time.perf_counter()
                outputs = engine.run(inputs[turn % len(inputs)])
                spent.append(1000 * (time.perf_counter() - start))
                if turn < len(inputs):
                    returned.append(outputs)
            reporter.step("measure graphs", turn + 1, turns)
        self.engine = engines[0].description
        for engine in engines:
            engine.close()
        return times, results

    def _change(self, outputs: list[Arrays], calibration: Calibration) -> ResultChange:
        results = self.held_out.relative(outputs, calibration)
        return ResultChange.between(self._reference, results, self.held_out.tampered, self._tolerance)


def _results_in_torch(run: Run, held_out: HeldOut) -> RelativeResults:
    """Return the results of the detector as trained."""
    detector = searchable(run, "--plan")
    results = [as_outputs(detector.fuse(*detector.score_each(patches))) for patches in held_out.patches]
    return held_out.relative(results, run.calibration)


def peak_megabytes(graph: Path, inputs: Path) -> float:
    """Return the peak resident memory of a separate process that runs a graph, in 10⁶ bytes.

    Raises:
        EngineError: The process failed.
    """
    command = [sys.executable, "-m", "cmdiad_export.planning.peak", str(graph), str(inputs)]
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # noqa: S603 - own module
    if ended.returncode:
        raise EngineError(
            "the process that measures memory",
            found=f"exit code {ended.returncode}",
            expected="figures",
            action="see the message above",
        )
    return float(ended.stdout)
