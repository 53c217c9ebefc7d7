"""The certificate: how far the results of graphs and engines lie from the trained detector, on the golden set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.golden import GoldenSample
from cmdiad_runtime.bundle.search_record import SearchRecord, SearchTolerance
from cmdiad_runtime.bundle.verdict import deciding_score
from cmdiad_runtime.engines import Engine
from cmdiad_runtime.engines.batch import BatchEngine, mixed_orders
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.names import Verdict
from cmdiad_runtime.support.records import (
    LARGEST_NUMBER,
    RecordError,
    fields_from_json,
    make_tuple,
    require,
    require_integer,
    require_line,
    require_number,
)

Float64 = npt.NDArray[np.float64]
Outputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted difference between an engine and the trained detector.

    Attributes:
        score: Largest difference of a score, as a share of the score threshold.
        map: Largest difference of a map value, as a share of the map threshold.
    """

    score: float
    map: float

    def __post_init__(self) -> None:
        for name in ("score", "map"):
            require_number(self, name, -10, 10)  # a tolerance below 0 refuses every engine

    @staticmethod
    def from_json(value: object) -> Tolerance:
        """Read a tolerance from parsed JSON; RecordError if a value is missing or wrong."""
        return Tolerance(**fields_from_json(Tolerance, value))


# fp32: engines only reorder sums. 1e-3 is two orders of magnitude above the differences that were measured, and far
# below a difference that changes a verdict.
# fp16: 11 significant bits through a deep network. 2 % of the threshold is a tenth of the usual spread of good parts.
# int8, fp8: 7 and 4 significant bits, in the networks only. Errors of single products, a percent and more, average out
# over hundreds of channels. 5 % of the threshold is still a fraction of the distance between the threshold and the
# scores of defects, and no verdict of the golden set may change. A map may differ by twice as much, because its
# largest value is the extreme of thousands.
# int8-cpu: one scale per row changes scores of trained detectors by 0.2 % (docs/performance.md). Together with the
# fast search, which may change them by 0.5 %, the graph must stay within 0.5 %.
# Convolutions in int8-cpu have static scales and the tolerance of int8; see `tolerance_for`.
TOLERANCES = {
    "fp32": Tolerance(score=1e-3, map=2e-3),
    "fp16": Tolerance(score=2e-2, map=5e-2),
    "int8": Tolerance(score=5e-2, map=1e-1),
    "int8-cpu": Tolerance(score=5e-3, map=5e-2),
    "fp8": Tolerance(score=5e-2, map=1e-1),
}
"""Tolerance of a graph by precision."""

# The published blur rounds to 256 levels of the map's own maximum, which may be several times the threshold. A sum
# that is rounded the other way changes a pixel by a whole level.
PUBLISHED_BLUR_LEVEL = 3e-2


def search_tolerance(*, published_blur: bool, verdict: Verdict = "image") -> SearchTolerance:
    """Return the tolerance of a search. A map may change by twice as much: it is the extreme of thousands of values."""
    level = PUBLISHED_BLUR_LEVEL * published_blur
    return SearchTolerance(score=5e-3 + level * (verdict == "map"), map=1e-2 + level, auroc=2e-3)


def tolerance_for(
    precision: str,
    *,
    published_blur: bool,
    verdict: Verdict = "image",
    fast_search: bool = False,
    static_scales: bool = False,
) -> Tolerance:
    """Return the tolerance of a graph.

    Args:
        precision: Precision of the graph, a key of TOLERANCES.
        published_blur: True if the graph contains the published blur. Its rounding concerns the score if the map
            decides.
        verdict: Score that decides.
        fast_search: True if the graph contains a fast search, which has its own tolerance: the wider of the two holds
            for scores, their sum for maps.
        static_scales: True if an int8-cpu graph contains convolutions with static scales, as int8 graphs do.
    """
    tolerance = TOLERANCES["int8" if precision == "int8-cpu" and static_scales else precision]
    search = search_tolerance(published_blur=False, verdict=verdict)
    level = PUBLISHED_BLUR_LEVEL * published_blur
    score = max(tolerance.score, search.score) if fast_search else tolerance.score
    return Tolerance(score=score + level * (verdict == "map"), map=tolerance.map + level + search.map * fast_search)


@dataclass(frozen=True)
class Comparison:
    """The differences between one engine and the trained detector over the golden set.

    Attributes:
        engine: Library, version and device.
        precision: Precision of the graph.
        score_max_abs: Largest difference of a score.
        score_max_share: Largest difference of a score, as a share of the score threshold.
        map_max_abs: Largest difference of a map value; for maps that add up, the sum of their largest differences.
        map_mean_abs: Mean difference of map values.
        map_max_share: Largest difference of a map value, as a share of the map threshold.
        label_flips: Number of samples with another verdict, borderline samples excluded.
        borderline: Number of samples whose reference score is within the score tolerance of the threshold.
        not_finite: Number of scores and map values that are NaN or infinite.
        passed: True if all differences are within tolerance, no verdict changed and all values are finite.

    Raises:
        RecordError: A value has the wrong kind, is out of range or contradicts `passed`.
    """

    engine: str
    precision: str
    score_max_abs: float
    score_max_share: float
    map_max_abs: float
    map_mean_abs: float
    map_max_share: float
    label_flips: int
    borderline: int
    not_finite: int
    passed: bool

    def __post_init__(self) -> None:
        require_line(self, "engine")
        require(self.precision in tuple(TOLERANCES), self, "precision", f"one of {', '.join(TOLERANCES)}")
        require(isinstance(self.passed, bool), self, "passed", "true or false")
        for name in ("score_max_abs", "score_max_share", "map_max_abs", "map_mean_abs", "map_max_share"):
            # An engine that failed may have infinite differences.
            if self.passed or getattr(self, name) != math.inf:
                require_number(self, name, 0, LARGEST_NUMBER)
        for name in ("label_flips", "borderline", "not_finite"):
            require_integer(self, name, 0, 1 << 40)
        require(not (self.passed and (self.label_flips or self.not_finite)), self, "passed", "false after label flips")

    @staticmethod
    def from_json(value: object) -> Comparison:
        """Read a comparison from parsed JSON.

        Raises:
            NewerRecordError: The object has an unknown field.
            RecordError: A field is missing, has the wrong kind or is out of range.
        """
        return Comparison(**fields_from_json(Comparison, value))

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Certificate:
    """The evidence that the graph of a bundle computes what the trained detector computes.

    Attributes:
        tolerances: Tolerance by precision; the precision of the bundle's graph is one of them.
        machine: Architecture of the machine that exported the bundle, as `platform.machine()` returns it.
        samples: Number of golden samples, at least 1.
        comparisons: Comparison of each graph that was executed, at least one. All have passed and are within the
            tolerance of their precision.
        reference: Computation that the graphs were compared with.
        golden: Description of the golden samples.
        search: Record of the search of a memory bank; None without a bank and in older bundles.

    Raises:
        RecordError: A value has the wrong kind or is out of range, or a comparison did not pass.
    """

    tolerances: Mapping[str, Tolerance]
    machine: str
    samples: int
    comparisons: tuple[Comparison, ...]
    reference: str = ""
    golden: str = ""
    search: SearchRecord | None = None

    def __post_init__(self) -> None:
        for name in ("machine", "reference", "golden"):
            require_line(self, name)
        require_integer(self, "samples", 1, 1 << 40)
        tolerances = isinstance(self.tolerances, Mapping) and self.tolerances.items()
        require(
            bool(tolerances) and all(isinstance(n, str) and isinstance(t, Tolerance) for n, t in tolerances),
            self,
            "tolerances",
            "a tolerance by precision",
        )
        make_tuple(self, "comparisons")
        compared = bool(self.comparisons) and all(isinstance(c, Comparison) for c in self.comparisons)
        require(compared, self, "comparisons", "one comparison or more")
        require(self.search is None or isinstance(self.search, SearchRecord), self, "search", "a search record or None")
        for comparison in self.comparisons:
            self.check_passed(comparison)

    def check_passed(self, comparison: Comparison) -> None:
        """Raise RecordError if a comparison did not pass, or its figures exceed the tolerance of its precision."""
        precision = comparison.precision
        if not comparison.passed:
            raise RecordError(f"the comparison of the {precision} graph did not pass")
        if precision not in self.tolerances:
            raise RecordError(f"the certificate has no tolerance for {precision}")
        tolerance = self.tolerances[precision]
        if comparison.score_max_share > tolerance.score or comparison.map_max_share > tolerance.map:
            raise RecordError(f"the comparison of the {precision} graph passed with differences beyond its tolerance")

    @staticmethod
    def from_json(value: object) -> Certificate:
        """Read a certificate from parsed JSON.

        Raises:
            NewerRecordError: An object has an unknown field.
            RecordError: A field is missing, has the wrong kind or is out of range, or a comparison did not pass.
        """
        values = fields_from_json(Certificate, value)
        tolerances, comparisons = values["tolerances"], values["comparisons"]
        if not isinstance(tolerances, dict):
            raise RecordError(f"Certificate.tolerances is {tolerances!r:.60}, expected an object")
        if not isinstance(comparisons, list):
            raise RecordError(f"Certificate.comparisons is {comparisons!r:.60}, expected a list")
        search = values.get("search")
        return Certificate(
            **{
                **values,
                "tolerances": {name: Tolerance.from_json(entry) for name, entry in tolerances.items()},
                "comparisons": tuple(map(Comparison.from_json, comparisons)),
                "search": None if search is None else SearchRecord.from_json(search),
            }
        )


def compare(
    engine: Engine, precision: str, golden: Sequence[GoldenSample], calibration: Calibration, tolerance: Tolerance
) -> Comparison:
    """Run the golden set through an engine and measure the differences from the reference.

    An engine for several samples at once runs the golden samples in batches of mixed order, so that every sample is
    compared at every place. Counts are then of results, not of samples.

    Args:
        engine: Open engine.
        precision: Precision of the graph.
        golden: Golden samples; at least one, with maps of one shape.
        calibration: Thresholds that differences are given as shares of, and that decide the verdicts; its `verdict`
            names the score that is compared.
        tolerance: Largest accepted differences.

    Raises:
        EngineError: The engine failed, or its maps have another shape than the reference.
    """
    golden, outputs = _outputs(engine, golden)
    scores, maps = _results(engine, golden, outputs, calibration.verdict)
    expected_maps = np.stack([sample.map for sample in golden])
    reference = np.array([sample.score for sample in golden])
    not_finite = int((~np.isfinite(scores)).sum() + (~np.isfinite(maps)).sum())
    score_difference = np.abs(np.nan_to_num(scores, posinf=0) - reference)
    map_difference = np.abs(np.nan_to_num(maps, posinf=0) - expected_maps)
    map_largest = map_difference.reshape(len(maps), -1, *maps.shape[-2:]).max(axis=(2, 3)).sum(axis=1).max()
    threshold = calibration.score_threshold
    borderline = np.abs(reference - threshold) <= tolerance.score * threshold
    flips = int((((scores > threshold) != (reference > threshold)) & ~borderline).sum())
    score_share = float(score_difference.max() / threshold)
    map_share = float(map_largest / calibration.map_threshold)
    within = score_share <= tolerance.score and map_share <= tolerance.map
    return Comparison(
        engine=engine.description,
        precision=precision,
        score_max_abs=float(score_difference.max()),
        score_max_share=score_share,
        map_max_abs=float(map_largest),
        map_mean_abs=float(map_difference.mean()),
        map_max_share=map_share,
        label_flips=flips,
        borderline=int(borderline.sum()),
        not_finite=not_finite,
        passed=within and flips == 0 and not_finite == 0,
    )


def _outputs(engine: Engine, golden: Sequence[GoldenSample]) -> tuple[Sequence[GoldenSample], list[Outputs]]:
    """Return golden samples in the order of their runs, and the outputs of each run."""
    if not isinstance(engine, BatchEngine):
        return golden, [engine.run(sample.inputs) for sample in golden]
    order = [number for batch in mixed_orders(len(golden), engine.size) for number in batch]
    mixed = [golden[number] for number in order]
    return mixed, engine.run_each([sample.inputs for sample in mixed])


def _results(
    engine: Engine, golden: Sequence[GoldenSample], outputs: Sequence[Outputs], verdict: Verdict
) -> tuple[Float64, Float64]:
    """Return scores `[samples]` and maps `[samples, (maps,) size, size]`; EngineError for maps of another shape."""
    maps = np.stack([output["map"] for output in outputs]).astype(np.float64)
    expected = golden[0].map.shape
    if maps.shape[1:] != expected:
        raise EngineError(
            engine.description,
            found=f"maps of shape {list(maps.shape[1:])}",
            expected=f"{list(expected)}, as in the golden set",
            action="export the bundle again",
        )
    pairs = zip(golden, outputs, strict=True)
    scores = [deciding_score(verdict, output, sample.over_sensor(output["map"])) for sample, output in pairs]
    return np.array(scores, dtype=np.float64), maps
