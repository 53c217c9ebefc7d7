"""Measure bank sizes, searches and precisions against latency, memory and AUROC; every graph is certified and run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdiad_export.bundle_writer import write_certified
from cmdiad_export.certified import CertifiedGraph, Certifier
from cmdiad_export.golden import golden_set
from cmdiad_export.options import ExportOptions
from cmdiad_export.planning.measure import GraphBench, Measurement
from cmdiad_export.planning.plan import Budget, GraphForm, Plan, Point, best_within, pareto
from cmdiad_export.search.choice import SearchChoice, choose_all
from cmdiad_export.search.held_out import HeldOut
from cmdiad_export.search.searchable import searchable
from cmdiad_export.search.smaller_banks import SHARES, trained_share, with_smaller_banks
from cmdiad_runtime.bundle.manifest_records import GRAPH
from cmdiad_runtime.engines import Precision
from cmdiad_runtime.errors import CertificateError
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.runs.run import Run, load_held_out

MOST_REDUCED = 3
REDUCED: tuple[Precision, ...] = ("fp16", "int8", "int8-cpu")


@dataclass(frozen=True)
class Candidate:
    """A graph that can be exported.

    Attributes:
        run: Run with the banks of the graph.
        search: Search of the graph.
        certifier: Writer of the graphs of this run and search.
        precision: Precision of the graph.
    """

    run: Run
    search: SearchChoice
    certifier: Certifier
    precision: Precision = "fp32"

    @property
    def form(self) -> GraphForm:
        """Return bank size, search and precision."""
        rows = tuple(len(search.rows) for search in searchable(self.run, "--plan").searches)
        settings = self.search.chosen.settings
        share = trained_share(self.run.recipe)
        return GraphForm(share, rows, settings.width, settings.candidates, self.precision, settings.proven)

    def at(self, precision: Precision) -> Candidate:
        """Return the candidate in another precision."""
        return Candidate(self.run, self.search, self.certifier, precision)


@dataclass(frozen=True)
class Exported:
    """A candidate with its certified graph.

    Attributes:
        candidate: What was exported.
        graph: The graph on disk, in the folder of the plan.
    """

    candidate: Candidate
    graph: CertifiedGraph


@dataclass(frozen=True)
class Planned:
    """A plan and its graphs, which are on disk until the folder of the plan is removed.

    Attributes:
        plan: Measured points.
        exported: Graph of each point, in the same order.
    """

    plan: Plan
    exported: tuple[Exported, ...]


def make_plan(
    run: Run,
    folder: Path,
    reporter: Reporter,
    *,
    scratch_megabytes: float | None = None,
    shares: Sequence[float] = SHARES,
) -> Planned:
    """Export and measure a run's graphs: every bank and search in fp32, then the best of them in lower precisions.

    AUROC and changes are those of held-out good samples and tampered copies, compared with the detector as trained.
    Latency is the median over rounds that go through all graphs in turn. Each fp32 graph is certified and measured
    once.

    Args:
        run: A finished run.
        folder: Existing folder for the graphs.
        reporter: Receiver of messages.
        scratch_megabytes: Budget for the search's scratch memory.
        shares: Sizes of smaller banks, as fractions of the training rows.

    Raises:
        RunError: The run has no held-out samples.
        EngineError: The detector has no memory banks, or a process that measures memory failed.
    """
    held_out = HeldOut.of(searchable(run, "--plan or a budget"), load_held_out(run.path))
    exports = _Exports(folder, reporter)
    exports.add(_candidates(run, held_out, shares, scratch_megabytes, reporter))
    bench = GraphBench(run, held_out, folder)
    measured = _measure(exports.exported, bench, reporter)
    singles = [_point(pair, measurement) for pair, measurement in zip(exports.exported, measured, strict=True)]
    best = promising([pair.candidate for pair in exports.exported], singles)
    exports.add(candidate.at(precision) for candidate in best for precision in REDUCED)
    reduced = exports.exported[len(singles) :]
    measured = _measure(reduced, bench, reporter)
    points = [*singles, *(_point(pair, measurement) for pair, measurement in zip(reduced, measured, strict=True))]
    good, tampered = held_out.counts
    plan = Plan(tuple(points), tuple(exports.refused), good, tampered, bench.engine)
    return Planned(plan, tuple(exports.exported))


def _candidates(
    run: Run, held_out: HeldOut, shares: Sequence[float], scratch_megabytes: float | None, reporter: Reporter
) -> Iterator[Candidate]:
    """Yield every bank and search in fp32."""
    for sized in (run, *with_smaller_banks(run, held_out, shares).values()):
        golden = golden_set(sized)
        for search in choose_all(sized, held_out, reporter):
            yield Candidate(sized, search, Certifier(sized, golden, search, scratch_megabytes, SILENT))


def _measure(exported: Sequence[Exported], bench: GraphBench, reporter: Reporter) -> list[Measurement]:
    if not exported:
        return []
    reporter.say(f"measuring {len(exported)} graphs on {len(bench.held_out.inputs)} held-out samples")
    return bench.measure([(pair.graph.path, pair.candidate.run.calibration) for pair in exported], reporter)


def _point(exported: Exported, measured: Measurement) -> Point:
    return Point(exported.candidate.form, measured.latency_ms, measured.memory_mb, measured.graph_mb, measured.change)


def promising(candidates: Sequence[Candidate], points: Sequence[Point]) -> list[Candidate]:
    """Return the candidates to try in lower precisions too: the bank as trained with its faster search, and the best.

    int8 takes minutes to calibrate, so there are at most MOST_REDUCED, by AUROC and then by latency. Proven searches
    stay in fp32.
    """
    reducible = [point for point in points if not point.form.proven]
    trained = min(
        (point for point in reducible if point.form.bank == points[0].form.bank), key=lambda point: point.latency_ms
    )
    best = sorted(pareto(reducible), key=lambda point: (-point.change.auroc, point.latency_ms))
    chosen = [trained, *(point for point in best if point is not trained)][:MOST_REDUCED]
    return [c for c, point in zip(candidates, points, strict=True) if any(point is other for other in chosen)]


def write_within(
    planned: Planned, budget: Budget, out: Path, options: ExportOptions, reporter: Reporter
) -> dict[str, Any]:
    """Write the bundle of the best point within a budget, with the graph that was measured, and return the manifest.

    Raises:
        EngineError: No point fits.
        OutputError: `out` exists or cannot be written.
    """
    plan = planned.plan
    points = [point for point in plan.points if not (options.target == "rtx" and point.form.cpu_only)]
    best = best_within(points, budget)
    exported = planned.exported[plan.points.index(best)]
    fitting = sum(map(budget.allows, points))
    why = f"the highest AUROC, then the smallest change of scores, of {fitting} of {len(points)} points within it"
    reporter.say(
        f"for {budget}: {best.form}; {best.latency_ms:.1f} ms, {best.memory_mb:.0f} MB, AUROC {best.change.auroc:.3f}: "
        f"{why}"
    )
    record = {"budget": str(budget), "chosen": best.to_json(), "because": why, **plan.to_json()}
    return write_certified(exported.candidate.run, out, exported.graph, options, reporter, plan=record)


class _Exports:
    """Certified graphs in a folder."""

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self.folder, self.reporter = folder, reporter
        self.exported: list[Exported] = []
        self.refused: list[tuple[GraphForm, str]] = []

    def add(self, candidates: Iterator[Candidate]) -> None:
        """Export candidates; note those that their certificate refuses."""
        for candidate in candidates:
            folder = self.folder / str(len(self.exported) + len(self.refused))
            folder.mkdir()
            self.reporter.say(f"exporting {candidate.form}")
            try:
                graph = candidate.certifier.certify(candidate.precision, folder / GRAPH)
            except CertificateError as error:
                self.reporter.say(f"refused: {error}")
                self.refused.append((candidate.form, error.found))
            else:
                self.exported.append(Exported(candidate, graph))
