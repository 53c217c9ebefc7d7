"""The points of a plan, which of them are worth having, and which one fits a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cmdiad_export.held_out import Change
from cmdiad_runtime.engines import Precision
from cmdiad_runtime.errors import EngineError


@dataclass(frozen=True)
class Form:
    """What a graph is made of.

    Attributes:
        bank: share of the training rows in the banks.
        rows: of each bank.
        width: principal components that candidates are found in; None for the exact search.
        candidates: per query.
        precision: of the graph.
        proven: the search is as exact as one over all channels.
    """

    bank: float
    rows: tuple[int, ...]
    width: int | None
    candidates: int
    precision: Precision
    proven: bool = False

    @property
    def cpu_only(self) -> bool:
        """Whether ONNX Runtime on a processor alone is known to run it."""
        return self.proven or self.precision == "int8-cpu"

    def __str__(self) -> str:
        kind = "proven" if self.proven else "fast"
        search = "exact search" if self.width is None else f"{kind} search ({self.width} components, {self.candidates})"
        return f"{self.bank:.0%} bank ({' + '.join(map(str, self.rows))} rows), {search}, {self.precision}"


@dataclass(frozen=True)
class Point:
    """A graph that was exported, certified and run.

    Attributes:
        form: what it is made of.
        latency_ms: median time of a run of the engine.
        memory_mb: most resident memory of a process of its own that runs it, 10⁶ bytes.
        graph_mb: size of the graph.
        change: from the detector as it was trained.
    """

    form: Form
    latency_ms: float
    memory_mb: float
    graph_mb: float
    change: Change

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, flat."""
        figures = {name: getattr(self, name) for name in ("latency_ms", "memory_mb", "graph_mb")}
        return {**asdict(self.form), **figures, **self.change.to_json()}


@dataclass(frozen=True)
class Plan:
    """What was measured of one run.

    Attributes:
        points: every graph that passed its certificate.
        refused: those that did not, with the reason.
        good: held-out good samples behind the figures.
        tampered: tampered copies of them.
        engine: what ran the graphs.
    """

    points: tuple[Point, ...]
    refused: tuple[tuple[Form, str], ...]
    good: int
    tampered: int
    engine: str

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        best = pareto(self.points)
        return {
            "engine": self.engine,
            "samples": {"good": self.good, "tampered": self.tampered},
            "points": [{**point.to_json(), "pareto": point in best} for point in self.points],
            "refused": [{**asdict(form), "because": reason} for form, reason in self.refused],
        }


@dataclass(frozen=True)
class Budget:
    """What a graph may take.

    Attributes:
        milliseconds: of a run of the engine, or None.
        megabytes: of resident memory, or None.
    """

    milliseconds: float | None
    megabytes: float | None

    def allows(self, point: Point) -> bool:
        """Whether a point keeps both limits."""
        fast = self.milliseconds is None or point.latency_ms <= self.milliseconds
        return fast and (self.megabytes is None or point.memory_mb <= self.megabytes)

    def __str__(self) -> str:
        limits = ((self.milliseconds, "ms"), (self.megabytes, "MB"))
        return " and ".join(f"{limit:g} {unit}" for limit, unit in limits if limit is not None)


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in latency, memory and AUROC at once."""
    return [point for point in points if not any(_beats(other, point) for other in points)]


def _beats(one: Point, other: Point) -> bool:
    first, second = _costs(one), _costs(other)
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def _costs(point: Point) -> tuple[float, float, float]:
    return point.latency_ms, point.memory_mb, -point.change.auroc


def best_within(points: Sequence[Point], budget: Budget) -> Point:
    """The point with the highest AUROC within a budget, then the smallest change of scores, then the cheapest.

    Raises:
        EngineError: none fits; it names the one that comes nearest.
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
    """How far a point is over its budget: the larger of both quotients."""
    pairs = ((point.latency_ms, budget.milliseconds), (point.memory_mb, budget.megabytes))
    return max(value / limit for value, limit in pairs if limit is not None)
