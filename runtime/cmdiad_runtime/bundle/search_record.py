"""Records that an export may add to a bundle: how its memory bank is searched, and which plan it was chosen from.

The runtime uses neither. Both are checked because people decide by their figures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cmdiad_runtime.support.records import (
    LARGEST_NUMBER,
    RecordError,
    fields_from_json,
    is_number,
    make_tuple,
    require,
    require_instance,
    require_integer,
    require_line,
    require_number,
    require_object,
)

PLAN_FIGURES = ("bank", "latency_ms", "memory_mb", "graph_mb", "auroc", "score_max_share")


@dataclass(frozen=True)
class SearchTolerance:
    """Largest accepted change of results by a fast search, on held-out samples. No verdict may change.

    Attributes:
        score: Largest change of a score, as a share of the score threshold.
        map: Largest change of a map value, as a share of the map threshold.
        auroc: Largest change of the AUROC of good samples against tampered ones.
    """

    score: float
    map: float
    auroc: float

    def __post_init__(self) -> None:
        for name in ("score", "map", "auroc"):
            require_number(self, name, -10, 10)  # a tolerance below 0 refuses every search

    @staticmethod
    def from_json(value: object) -> SearchTolerance:
        """Read a tolerance from parsed JSON; RecordError if a value is missing or wrong."""
        return SearchTolerance(**fields_from_json(SearchTolerance, value))

    def to_json(self) -> dict[str, Any]:
        """Return the tolerance as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class SearchFigures:
    """Results of one search setting, compared with brute force in float64.

    Attributes:
        plan: Search settings, as the detector family wrote them.
        recall: Share of queries whose returned row is a nearest one.
        distance_max_error: Largest relative error of a smallest distance.
        score_max_share: Largest change of a score, as a share of the score threshold.
        map_max_share: Largest change of a map value, as a share of the map threshold.
        auroc_change: Change of the AUROC of good samples against tampered ones.
        label_flips: Number of samples with another verdict, borderline samples excluded.
        passed: True if the changes are within tolerance.
        auroc: AUROC of good samples against tampered ones; None in older bundles.
        borderline: Number of samples whose score is within the score tolerance of the threshold.
        multiply_adds: Estimated multiply-adds per query; None in older bundles.
        in_full: Share of queries that a proven search searched over all channels.
    """

    plan: dict[str, Any]
    recall: float
    distance_max_error: float
    score_max_share: float
    map_max_share: float
    auroc_change: float
    label_flips: int
    passed: bool
    auroc: float | None = None
    borderline: int = 0
    multiply_adds: int | None = None
    in_full: float = 0.0

    def __post_init__(self) -> None:
        require_object(self, "plan")
        for name in ("recall", "in_full"):
            require_number(self, name, 0, 1)
        for name in ("distance_max_error", "score_max_share", "map_max_share"):
            require_number(self, name, 0, LARGEST_NUMBER)
        require_number(self, "auroc_change", -1, 1)
        for name in ("label_flips", "borderline"):
            require_integer(self, name, 0, 1 << 40)
        require(isinstance(self.passed, bool), self, "passed", "true or false")
        if self.auroc is not None:
            require_number(self, "auroc", 0, 1)
        if self.multiply_adds is not None:
            require_number(self, "multiply_adds", 0, LARGEST_NUMBER)

    @staticmethod
    def from_json(value: object) -> SearchFigures:
        """Read figures from parsed JSON; RecordError if a value is missing or wrong."""
        return SearchFigures(**fields_from_json(SearchFigures, value))


@dataclass(frozen=True)
class SearchRecord:
    """The search of a memory bank, compared with brute force. The chosen setting has passed.

    Attributes:
        chosen: Figures of the search in the graph.
        tolerance: Largest accepted changes.
        asked: Kind of search that was requested.
        method: Kind of search that was chosen, as a sentence.
        reference: Computation that the search was compared with.
        samples: Number of samples by kind, "good" and "tampered".
        tried: Figures of cheaper settings that did not pass.
    """

    chosen: SearchFigures
    tolerance: SearchTolerance
    asked: str = ""
    method: str = ""
    reference: str = ""
    samples: dict[str, int] = field(default_factory=dict)
    tried: tuple[SearchFigures, ...] = ()

    def __post_init__(self) -> None:
        for name in ("asked", "method", "reference"):
            require_line(self, name)
        require_object(self, "samples")
        require_instance(self, "chosen", SearchFigures)
        require_instance(self, "tolerance", SearchTolerance)
        make_tuple(self, "tried")
        require(all(isinstance(f, SearchFigures) for f in self.tried), self, "tried", "a list of figures")
        if not self.chosen.passed:
            raise RecordError("the chosen search exceeds its tolerance")

    @staticmethod
    def from_json(value: object) -> SearchRecord:
        """Read a search record from parsed JSON; RecordError if a value is missing or wrong."""
        values = fields_from_json(SearchRecord, value)
        tried = values.get("tried", [])
        if not isinstance(tried, list):
            raise RecordError(f"SearchRecord.tried is {tried!r:.60}, expected a list")
        return SearchRecord(
            **{
                **values,
                "chosen": SearchFigures.from_json(values["chosen"]),
                "tolerance": SearchTolerance.from_json(values["tolerance"]),
                "tried": tuple(map(SearchFigures.from_json, tried)),
            }
        )


@dataclass(frozen=True)
class PlanRecord:
    """The measured alternatives that a bundle was chosen from, if a budget was given.

    Attributes:
        chosen: Settings and figures of the chosen alternative. `PLAN_FIGURES` are finite numbers.
        budget: Budget as text.
        because: Reason for the choice, as text.
        engine: Engine that ran the alternatives.
        samples: Number of samples by kind, "good" and "tampered".
        points: Settings and figures of all alternatives that passed their certificate.
        refused: Settings of the alternatives that did not pass, each with the reason.
    """

    chosen: dict[str, Any]
    budget: str = ""
    because: str = ""
    engine: str = ""
    samples: dict[str, int] = field(default_factory=dict)
    points: tuple[dict[str, Any], ...] = ()
    refused: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        require_object(self, "chosen")
        for name in PLAN_FIGURES:
            if not is_number(self.chosen.get(name), -LARGEST_NUMBER, LARGEST_NUMBER):
                raise RecordError(f"PlanRecord.chosen has {name} {self.chosen.get(name)!r:.60}, expected a number")
        for name in ("budget", "because", "engine"):
            require_line(self, name, longest=10_000)
        require_object(self, "samples")
        for name in ("points", "refused"):
            make_tuple(self, name)
            require(all(isinstance(item, dict) for item in getattr(self, name)), self, name, "a list of objects")

    @staticmethod
    def from_json(value: object) -> PlanRecord:
        """Read a plan record from parsed JSON; RecordError if a value is missing or wrong."""
        return PlanRecord(**fields_from_json(PlanRecord, value))
