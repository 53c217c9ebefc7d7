"""The bank budget planner: bank size, search and precision against latency, memory and AUROC, each graph measured."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.held_out import Change, HeldOut, Outcomes
from cmdiad_export.planning.bank_size import SHARES, trained_share, with_smaller_banks
from cmdiad_export.planning.plan import Budget, Form, Plan, Point, best_within, pareto
from cmdiad_export.search.choice import SearchChoice, choose_all
from cmdiad_runtime.bundle.certificate import search_tolerance
from cmdiad_runtime.engines import Precision, open_engine
from cmdiad_runtime.engines.graph_file import graph_bytes
from cmdiad_runtime.errors import CertificateError, EngineError
from cmdiad_train.runs.run_directory import Run, load_held_out

Say = Callable[[str], None]
Arrays = dict[str, npt.NDArray[Any]]

ROUNDS = 20
MOST_REDUCED = 3
REDUCED: tuple[Precision, ...] = ("fp16", "int8", "int8-cpu")


@dataclass(frozen=True)
class Candidate:
    """A graph that can be exported.

    Attributes:
        run: with the bank that it holds.
        search: how it finds candidates.
        precision: of the graph.
    """

    run: Run
    search: SearchChoice
    precision: Precision

    @property
    def form(self) -> Form:
        """What it is made of."""
        rows = tuple(len(search.rows) for search in self.run.detector.searches)
        plan = self.search.chosen.plan
        return Form(trained_share(self.run.recipe), rows, plan.width, plan.candidates, self.precision, plan.proven)

    def at(self, precision: Precision) -> Candidate:
        """The same in another precision."""
        return Candidate(self.run, self.search, precision)


@dataclass(frozen=True)
class Planned:
    """A plan, and what it was made from.

    Attributes:
        plan: the measured points.
        candidates: one for each point, in the same order.
    """

    plan: Plan
    candidates: tuple[Candidate, ...]


def make_plan(
    run: Run, say: Say, *, search_megabytes: float | None = None, shares: Sequence[float] = SHARES
) -> Planned:
    """Export and measure a run's graphs: every bank and search in fp32, then the best in lower precisions.

    Every graph is what `write_bundle` writes, in a temporary folder. AUROC and changes are those of held-out good
    samples and tampered copies, against the detector as trained; latency is the median over rounds that go through all
    graphs in turn.

    Args:
        run: a finished run.
        say: told what is going on, a line at a time.
        search_megabytes: budget for the search's scratch memory.
        shares: of the training rows, to make smaller banks of.

    Raises:
        RunError: the run keeps no held-out samples. EngineError: a process that measures memory failed.
    """
    held_out = HeldOut.of(run.detector, load_held_out(run.path))
    with tempfile.TemporaryDirectory() as folder:
        exports = _Exports(Path(folder), say, search_megabytes)
        for each in (run, *with_smaller_banks(run, held_out, shares).values()):
            for search in choose_all(each, held_out, say):
                exports.add(Candidate(each, search, "fp32"))
        singles = _measure(exports, run, held_out, say)
        for candidate in promising(exports.candidates, singles.points):
            for precision in REDUCED:
                exports.add(candidate.at(precision))
        return Planned(_measure(exports, run, held_out, say), tuple(exports.candidates))


def promising(candidates: Sequence[Candidate], points: Sequence[Point]) -> list[Candidate]:
    """Those to try in lower precisions too: the bank as trained with its faster search, and the next best few.

    int8 takes minutes to calibrate, so no more than MOST_REDUCED, by AUROC and then by latency. Proofs need fp32.
    """
    reducible = [point for point in points if not point.form.proven]
    trained = min(
        (point for point in reducible if point.form.bank == points[0].form.bank), key=lambda point: point.latency_ms
    )
    best = sorted(pareto(reducible), key=lambda point: (-point.change.auroc, point.latency_ms))
    chosen = [trained, *(point for point in best if point is not trained)][:MOST_REDUCED]
    return [c for c, point in zip(candidates, points, strict=True) if any(point is each for each in chosen)]


def write_within(
    planned: Planned, budget: Budget, out: Path, *, rtx: bool, say: Say, search_megabytes: float | None = None
) -> dict[str, Any]:
    """Write the bundle of the best point within a budget and return its manifest.

    Raises:
        EngineError: no point fits.
    """
    plan = planned.plan
    points = [point for point in plan.points if not (rtx and point.form.cpu_only)]
    best = best_within(points, budget)
    candidate = planned.candidates[plan.points.index(best)]
    fitting = sum(map(budget.allows, points))
    why = f"the highest AUROC, then the smallest change of scores, of {fitting} of {len(points)} points within it"
    say(
        f"for {budget}: {best.form}; {best.latency_ms:.1f} ms, {best.memory_mb:.0f} MB, AUROC {best.change.auroc:.3f}: "
        f"{why}"
    )
    record = {"budget": str(budget), "chosen": best.to_json(), "because": why, **plan.to_json()}
    return write_bundle(
        candidate.run,
        out,
        precision=candidate.precision,
        rtx=rtx,
        say=say,
        search=candidate.search,
        search_megabytes=search_megabytes,
        plan=record,
    )


class _Exports:
    """Graphs in a folder, with what they were made from."""

    def __init__(self, folder: Path, say: Say, search_megabytes: float | None) -> None:
        self.folder, self.say, self.search_megabytes = folder, say, search_megabytes
        self.candidates: list[Candidate] = []
        self.graphs: list[Path] = []
        self.refused: list[tuple[Form, str]] = []

    def add(self, candidate: Candidate) -> None:
        """Export one; what its certificate refuses is noted."""
        out = self.folder / f"{len(self.graphs)}.cmdiad"
        self.say(f"exporting {candidate.form}")
        try:
            write_bundle(
                candidate.run,
                out,
                precision=candidate.precision,
                rtx=False,
                say=_nothing,
                search=candidate.search,
                search_megabytes=self.search_megabytes,
            )
        except CertificateError as error:
            self.say(f"refused: {error}")
            self.refused.append((candidate.form, error.found))
            return
        self.candidates.append(candidate)
        self.graphs.append(out / "graph.onnx")


def _nothing(line: str) -> None:
    """Say nothing."""


def _measure(exports: _Exports, run: Run, held_out: HeldOut, say: Say) -> Plan:
    """Run all graphs in turn, sample by sample."""
    inputs = [{name: value.numpy() for name, value in each.items()} for each in held_out.inputs]
    say(f"measuring {len(exports.graphs)} graphs on {len(inputs)} held-out samples")
    reference = _outcomes_of(run, held_out)
    engines = [open_engine(graph) for graph in exports.graphs]
    times: list[list[float]] = [[] for _ in engines]
    results: list[list[Arrays]] = [[] for _ in engines]
    for engine in engines:
        engine.run(inputs[0])
    for turn in range(max(ROUNDS, len(inputs))):
        for engine, spent, found in zip(engines, times, results, strict=True):
            start = time.perf_counter()
            outputs = engine.run(inputs[turn % len(inputs)])
            spent.append(1000 * (time.perf_counter() - start))
            if turn < len(inputs):
                found.append(outputs)
    description = engines[0].description
    for engine in engines:
        engine.close()
    np.savez(exports.folder / "inputs.npz", allow_pickle=False, **inputs[0])
    tolerance = search_tolerance(published_blur=run.recipe.mode == "faithful")
    points = []
    for candidate, graph, spent, found in zip(exports.candidates, exports.graphs, times, results, strict=True):
        scores, maps = [float(o["score"][0]) for o in found], [o["map"] for o in found]
        outcomes = Outcomes.of(scores, maps, candidate.run.calibration)
        change = Change.between(reference, outcomes, held_out.tampered, tolerance)
        memory = peak_megabytes(graph, exports.folder / "inputs.npz")
        points.append(Point(candidate.form, statistics.median(spent), memory, graph_bytes(graph) / 1e6, change))
    bad = int(held_out.tampered.sum())
    return Plan(tuple(points), tuple(exports.refused), len(inputs) - bad, bad, description)


def _outcomes_of(run: Run, held_out: HeldOut) -> Outcomes:
    """Of the detector as trained, in torch."""
    found = [run.detector.fuse(*run.detector.score_each(patches)) for patches in held_out.patches]
    return Outcomes.of([float(s) for s, _ in found], [m.numpy() for _, m in found], run.calibration)


def peak_megabytes(graph: Path, inputs: Path) -> float:
    """Most resident memory of a process of its own that runs a graph, 10⁶ bytes; EngineError where it fails."""
    command = [sys.executable, "-m", "cmdiad_export.planning.peak", str(graph), str(inputs)]
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # noqa: S603  (our own module)
    if ended.returncode:
        raise EngineError(
            "the process that measures memory",
            found=f"exit code {ended.returncode}",
            expected="figures",
            action="see its message above",
        )
    return float(ended.stdout)
