"""The points of a plan, the Pareto-best of them, and the best one within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cmdiad_export.search.held_out import ResultChange
from cmdiad_runtime.engines import Precision
from cmdiad_runtime.errors import EngineError


@dataclass(frozen=True)
class GraphForm:
    """Bank size, search and precision of a graph.

    Attributes:
        bank: Fraction of the training rows in the banks.
        rows: Number of rows of each bank.
        width: Principal components among which candidates are searched; None for the exact search.
        candidates: Candidates per query.
        precision: Precision of the graph.
        proven: True if the search is as exact as one over all channels.
    """

    bank: float
    rows: tuple[int, ...]
    width: int | None
    candidates: int
    precision: Precision
    proven: bool = False

    @property
    def cpu_only(self) -> bool:
        """Return True if only ONNX Runtime on the CPU is known to run the graph."""
        return self.proven or self.precision == "int8-cpu"

    def __str__(self) -> str:
        kind = "proven" if self.proven else "fast"
        search = "exact search" if self.width is None else f"{kind} search ({self.width} components, {self.candidates})"
        return f"{self.bank:.0%} bank ({' + '.join(map(str, self.rows))} rows), {search}, {self.precision}"


@dataclass(frozen=True)
class Point:
    """A graph that was exported, certified and run.

    Attributes:
        form: Bank size, search and precision.
        latency_ms: Median time of one inference in milliseconds.
        memory_mb: Peak resident memory of a separate process that runs the graph, in 10⁶ bytes.
        graph_mb: Size of the graph in 10⁶ bytes.
        change: Change from the detector as it was trained.
    """

    form: GraphForm
    latency_ms: float
    memory_mb: float
    graph_mb: float
    change: ResultChange

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values, flat."""
        figures = {name: getattr(self, name) for name in ("latency_ms", "memory_mb", "graph_mb")}
        return {**asdict(self.form), **figures, **self.change.to_json()}


@dataclass(frozen=True)
class Plan:
    """The measurements of one run.

    Attributes:
        points: Every graph that passed its certificate.
        refused: Every graph that did not, with the reason.
        good: Number of held-out good samples behind the figures.
        tampered: Number of tampered copies.
        engine: Engine that ran the graphs.
    """

    points: tuple[Point, ...]
    refused: tuple[tuple[GraphForm, str], ...]
    good: int
    tampered: int
    engine: str

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        best = pareto(self.points)
        return {
            "engine": self.engine,
            "samples": {"good": self.good, "tampered": self.tampered},
            "points": [{**point.to_json(), "pareto": point in best} for point in self.points],
            "refused": [{**asdict(form), "because": reason} for form, reason in self.refused],
        }


@dataclass(frozen=True)
class Budget:
    """Limits of a graph.

    Attributes:
        milliseconds: Largest time of one inference, or None.
        megabytes: Largest resident memory in 10⁶ bytes, or None.
    """

    milliseconds: float | None
    megabytes: float | None

    def allows(self, point: Point) -> bool:
        """Return True if a point keeps both limits."""
        fast = self.milliseconds is None or point.latency_ms <= self.milliseconds
        return fast and (self.megabytes is None or point.memory_mb <= self.megabytes)

    def __str__(self) -> str:
        limits = ((self.milliseconds, "ms"), (self.megabytes, "MB"))
        return " and ".join(f"{limit:g} {unit}" for limit, unit in limits if limit is not None)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats in latency, memory and AUROC at once."""
    return [point for point in points if not any(_beats(other, point) for other in points)]


def _beats(one: Point, other: Point) -> bool:
    first, second = _costs(one), _costs(other)
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def _costs(point: Point) -> tuple[float, float, float]:
    return point.latency_ms, point.memory_mb, -point.change.auroc


def best_within(points: Sequence[Point], budget: Budget) -> Point:
    """Return the best point within a budget: highest AUROC, then smallest change of scores, then lowest cost.

    Raises:
        EngineError: No point fits. The message names the nearest one.
    """
    fitting = [point for point in points if budget.allows(point)]
    if fitting:
        return min(fitting, key=_preference)
    nearest = min(points, key=lambda point: (_excess(point, budget), _preference(point)))
    raise EngineError(
        f"a budget of {budget}",
        found=f"{nearest.latency_ms:.1f} ms and {nearest.memory_mb:.0f} MB at the nearest of {len(points)} points: "
        f"{nearest.form}, AUROC {nearest.change.auroc:.3f}",
        expected="a point within the budget",
        action="allow more, or train with a smaller extractor or a coarser grid",
    )


def _preference(point: Point) -> tuple[float, float, float, float]:
    return -point.change.auroc, point.change.score_max_share, point.latency_ms, point.memory_mb


def _excess(point: Point, budget: Budget) -> float:
    """Return how far a point exceeds its budget: the larger of both quotients."""
    pairs = ((point.latency_ms, budget.milliseconds), (point.memory_mb, budget.megabytes))
    return max(value / limit for value, limit in pairs if limit is not None)
