"""Figures that show drift: the moving average of the scores, the NG rate, and the latency by stage.

All functions are pure and work on arrays of results, oldest first. docs/records.md shows how to read the figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.names import INSPECTION_STAGES

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEAST_BASELINE = 20
"""Smallest number of scores of a baseline."""
TAIL = 0.00135
"""Probability beyond each limit of the NG rate: that of 3 standard deviations of a normal distribution."""
PERCENTILES = (50, 95, 99, 100)
_STAGES = ("acquired", "inspected", "recorded", "published")


@dataclass(frozen=True)
class Baseline:
    """Scores of good parts at a time when the station was in order.

    Attributes:
        mean: Mean score.
        deviation: Standard deviation of the scores, above 0.
        parts: Number of scores.
    """

    mean: float
    deviation: float
    parts: int

    @staticmethod
    def of(scores: Sequence[float] | Floats) -> Baseline | None:
        """Return the baseline of some scores; None if they are fewer than LEAST_BASELINE, or all equal.

        Args:
            scores: Scores of accepted parts, or the held-out scores of the bundle up to its threshold. Both have no
                scores above the threshold, so that they can be compared.
        """
        values = np.asarray(scores, dtype=np.float64)
        deviation = float(values.std(ddof=1)) if len(values) >= LEAST_BASELINE else 0.0
        return Baseline(float(values.mean()), deviation, len(values)) if deviation > 0 else None


@dataclass(frozen=True)
class Chart:
    """Moving average of scores, with limits.

    Attributes:
        averages: Average after each score, float64 `[n]`.
        lower: Lower limit at each score, float64 `[n]`.
        upper: Upper limit at each score, float64 `[n]`.
    """

    averages: Floats
    lower: Floats
    upper: Floats

    @property
    def outside(self) -> Bools:
        """Return True where the average is beyond a limit, bool `[n]`."""
        return (self.averages < self.lower) | (self.averages > self.upper)


def ewma_chart(scores: Sequence[float] | Floats, baseline: Baseline, weight: float, width: float) -> Chart:
    """Return the exponentially weighted moving average of scores and its limits.

    The average is z(i) = w·x(i) + (1 - w)·z(i-1) with z(0) = m, and the limits are
    m ± L·s·√(w/(2-w)·(1 - (1-w)^(2i))), with mean m and standard deviation s of the baseline (Roberts 1959;
    NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.2.4). A small weight makes the average nearly normal although
    scores are skewed (Borror, Montgomery and Runger 1999).

    Args:
        scores: Scores of accepted parts, oldest first.
        baseline: Mean and standard deviation in order.
        weight: Weight w of the newest score, in (0, 1].
        width: Distance L of the limits in standard deviations of the average.
    """
    values = np.asarray(scores, dtype=np.float64)
    averages, average = np.empty_like(values), baseline.mean
    for i, value in enumerate(values):
        average += weight * (float(value) - average)
        averages[i] = average
    counts = np.arange(1, len(values) + 1)
    spread = np.sqrt(weight / (2 - weight) * (1 - (1 - weight) ** (2 * counts)))
    reach = width * baseline.deviation * spread
    return Chart(averages, baseline.mean - reach, baseline.mean + reach)


@dataclass(frozen=True)
class HourlyRate:
    """NG rate of one hour.

    Attributes:
        start: Begin of the hour, seconds since 1970 UTC.
        parts: Number of parts.
        rejected: Number of NG parts.
        lower: Smallest number of NG parts that is not unusual at the expected rate.
        upper: Largest number of NG parts that is not unusual at the expected rate.
    """

    start: float
    parts: int
    rejected: int
    lower: int
    upper: int

    @property
    def unusual(self) -> bool:
        """Return True if the number of NG parts is beyond a limit."""
        return not self.lower <= self.rejected <= self.upper


def binomial_limits(parts: int, rate: float) -> tuple[int, int]:
    """Return the numbers of NG parts between which all but TAIL of the binomial distribution lies on each side.

    Args:
        parts: Number of parts.
        rate: Probability of NG, in [0, 1].
    """
    from scipy.special import bdtr

    if parts == 0 or rate in (0, 1):
        return (parts, parts) if rate == 1 else (0, 0)
    cumulative = bdtr(np.arange(parts + 1), parts, rate)  # P(number <= k), [parts + 1]
    lower = int(np.searchsorted(cumulative, TAIL, side="right"))
    upper = int(np.searchsorted(cumulative, 1 - TAIL, side="left"))
    return lower, min(upper, parts)


@dataclass(frozen=True)
class Latency:
    """Latency of one stage in milliseconds.

    Attributes:
        p50: Median.
        p95: 95th percentile.
        p99: 99th percentile.
        largest: Largest value.
        parts: Number of parts that reached the stage.
    """

    p50: float
    p95: float
    p99: float
    largest: float
    parts: int


def stage_latencies(timings: Sequence[Mapping[str, float]]) -> dict[str, Latency]:
    """Return the duration of each stage, and the time from the trigger to the published result as "total".

    Args:
        timings: `timings_ms` of each part: times from the trigger to the end of "acquired", "inspected", "recorded" and
            "published", and the durations "preprocess", "engine" and "map". Stages that a part did not reach are
            missing.
    """
    durations: dict[str, list[float]] = {}
    for entry in timings:
        before = 0.0
        for stage in (stage for stage in _STAGES if stage in entry):
            durations.setdefault(stage, []).append(entry[stage] - before)
            before = entry[stage]
        for stage in INSPECTION_STAGES:
            if stage in entry:
                durations.setdefault(stage, []).append(entry[stage])
        if "published" in entry:
            durations.setdefault("total", []).append(entry["published"])
    return {stage: _latency(values) for stage, values in durations.items()}


def _latency(milliseconds: Sequence[float]) -> Latency:
    p50, p95, p99, largest = (float(value) for value in np.percentile(milliseconds, PERCENTILES))
    return Latency(p50, p95, p99, largest, len(milliseconds))


@dataclass(frozen=True)
class Drift:
    """Result of the watch for drift.

    Attributes:
        alarm: True if somebody should look at the station. No verdict depends on it.
        message: One line for people: which way the scores have moved and by how much, or why there is no statement yet.
        chart: Chart of the scores, or None without a baseline.
    """

    alarm: bool
    message: str
    chart: Chart | None


def watch_for_drift(scores: Sequence[float] | Floats, baseline: Baseline | None, weight: float, width: float) -> Drift:
    """Return the alarm for the newest scores of accepted parts.

    The alarm holds as long as the present average is beyond a limit, so it ends by itself when the scores return.

    Args:
        scores: Scores of accepted parts since the baseline, oldest first.
        baseline: See `Baseline.of`, or None.
        weight: See `ewma_chart`.
        width: See `ewma_chart`.
    """
    if baseline is None:
        return Drift(False, "Learning: drift is watched when enough parts were accepted.", None)
    chart = ewma_chart(scores, baseline, weight, width)
    if not len(chart.averages):
        return Drift(False, "No accepted part since the baseline.", chart)
    average = float(chart.averages[-1])
    moved = (average - baseline.mean) / baseline.deviation
    if not chart.outside[-1]:
        return Drift(False, f"Scores are steady: average {average:.4g}, expected {baseline.mean:.4g}.", chart)
    direction = "higher" if moved > 0 else "lower"
    message = (
        f"Scores of accepted parts are {direction} than before: average {average:.4g}, expected {baseline.mean:.4g} "
        f"({math.fabs(moved):.1f} standard deviations). Check lamp, lens, position and parts."
    )
    return Drift(True, message, chart)
