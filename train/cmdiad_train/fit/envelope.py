"""Learning the envelope of a detector: limits of the recording conditions of its good samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.envelope.colour_order import colour_order
from cmdiad_runtime.envelope.names import CHECKS
from cmdiad_runtime.envelope.record import MOST_SIZES, Envelope, Limit
from cmdiad_runtime.support.records import require, require_number
from cmdiad_train.fit.conditions import Conditions

FALSE_ALARM_RATE = 0.001
"""Default share of good samples that all limits together may refuse."""
LEAST_ORDER = 0.1
"""Smallest accepted colour order; grey pictures have 0."""


@dataclass(frozen=True)
class EnvelopeOptions:
    """Choices about the checks of the recording conditions.

    Attributes:
        rate: Stated share of good samples that all limits together may refuse, in (0, 1).
        off: Names of the checks that are switched off.

    Raises:
        ValueError: The rate is out of range, or a check is unknown.
    """

    rate: float = FALSE_ALARM_RATE
    off: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_number(self, "rate", 0, 1)
        require(0 < self.rate < 1, self, "rate", "a number between 0 and 1")
        require(all(name in CHECKS for name in self.off), self, "off", f"names out of {', '.join(CHECKS)}")


@dataclass(frozen=True)
class Margin:
    """Smallest distance of the limits of a measure from the training samples.

    Training samples are often recorded in one hour, so their spread says nothing about the drift of lamp and sensor
    that a line must tolerate. docs/envelope.md states the evidence for the values.

    Attributes:
        absolute: Distance in the unit of the measure.
        relative: Distance as a fraction of the typical value; the larger distance applies.
        low: True if there is a lower limit.
        high: True if there is an upper limit.
    """

    absolute: float = 0.0
    relative: float = 0.0
    low: bool = True
    high: bool = True

    def of(self, typical: float) -> float:
        """Return the distance for a typical value."""
        return max(self.absolute, self.relative * abs(typical))


MARGINS: Mapping[str, Margin] = {
    "red_blue_low": Margin(low=False, high=False),
    "red_blue": Margin(8, 0.5),
    "red_blue_high": Margin(low=False, high=False),
    "green": Margin(6, 0.5),
    "dark": Margin(12, 0.5),
    "brightness": Margin(2, 0.4),
    "bright": Margin(15, 0.4),
    "saturated": Margin(0.1, low=False),
    "sharpness": Margin(1.5, high=False),
    "noise": Margin(1.0, 1.0, low=False),
    **dict.fromkeys(("column_x", "column_y", "column_z", "row_x", "row_y", "row_z"), Margin(0.25)),
    "away": Margin(0.2, high=False),
    "column_pitch": Margin(relative=0.12),
    "row_pitch": Margin(relative=0.12),
    "valid": Margin(relative=0.3),
    "reach": Margin(relative=0.6),
    "depth": Margin(relative=0.04),
    "plane": Margin(0.25),
    "plane_distance": Margin(relative=0.03),
    "plane_x": Margin(0.08),
    "plane_y": Margin(0.08),
    "holes": Margin(0.15, low=False),
    "detached": Margin(0.005, low=False),
}
"""Margins by measure."""


def learn_envelope(samples: Sequence[Conditions], options: EnvelopeOptions) -> Envelope | None:
    """Return the envelope of good samples, or None with fewer than 2 samples that can be inspected.

    Args:
        samples: Recording conditions of the training samples and of those that set the thresholds.
        options: Rate, and checks that are switched off.
    """
    usable = [sample for sample in samples if sample.measures]
    if len(usable) < 2:
        return None
    sizes = sorted({sample.size for sample in usable})
    if len(sizes) > MOST_SIZES:
        widths, heights = zip(*sizes, strict=True)
        sizes = [(min(widths), min(heights)), (max(widths), max(heights))]
    limits = learn_limits([sample.measures for sample in usable], options.rate)
    return Envelope(len(usable), options.rate, tuple(sizes), limits, options.off)


def learn_limits(samples: Sequence[Mapping[str, float]], rate: float) -> dict[str, Limit]:
    """Return the limits of the measures that every sample has.

    A limit is the Student prediction limit of a normal sample, mean ± t(1 - r/2K, n-1)·s·√(1 + 1/n), for one of K
    measures, but at least the margin of the measure beyond all samples.

    Args:
        samples: Measures of the good samples; at least 2.
        rate: Stated share of good samples that all limits together refuse, in (0, 1).
    """
    values = {name: np.array([sample.get(name, np.nan) for sample in samples]) for name in MARGINS}
    values = {name: column for name, column in values.items() if np.isfinite(column).all()}
    factor = _prediction_factor(len(samples), rate / (2 * max(len(values), 1)))
    limits = {name: _limit(column, factor, MARGINS[name]) for name, column in values.items()}
    typical = {name: limit.typical for name, limit in limits.items()}
    orders = [colour_order(sample, typical) for sample in samples]
    return _order_limit([order for order in orders if order is not None], factor) | limits


def _prediction_factor(n: int, tail: float) -> float:
    return float(scipy.stats.t.ppf(1 - tail, n - 1) * np.sqrt(1 + 1 / n))


def _limit(values: npt.NDArray[np.float64], factor: float, margin: Margin) -> Limit:
    typical, mean, spread = float(np.median(values)), float(values.mean()), factor * float(values.std(ddof=1))
    least = margin.of(typical)
    low = min(mean - spread, float(values.min()) - least) if margin.low else None
    high = max(mean + spread, float(values.max()) + least) if margin.high else None
    return Limit(typical, low, high)


def _order_limit(orders: Sequence[float], factor: float) -> dict[str, Limit]:
    """Return the limit of the colour order, near the middle, if the training samples lie clearly on one side."""
    if len(orders) < 2:
        return {}
    values = np.array(orders)
    safe = values.mean() - factor * values.std(ddof=1) > LEAST_ORDER
    return {"order": Limit(float(np.median(values)), low=LEAST_ORDER)} if safe else {}
