"""Learning the envelope of a detector: limits of the recording conditions of its good samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.bundle.threshold import prediction_factor
from cmdiad_runtime.envelope.colour_order import colour_weights
from cmdiad_runtime.envelope.image_measures import QUARTERS
from cmdiad_runtime.envelope.names import CHECKS
from cmdiad_runtime.envelope.record import MOST_SIZES, Envelope, Limit
from cmdiad_runtime.support.records import require, require_number
from cmdiad_train.fit.conditions import Conditions

FALSE_ALARM_RATE = 0.001
"""Default share of good samples that all limits together may refuse."""
LEAST_ORDER = 0.1
"""Smallest accepted colour order: grey pictures have 0, and training samples 1 on average."""


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
    "red_blue": Margin(8, 0.5),
    "green": Margin(6, 0.5),
    "dark": Margin(12, 0.5),
    "brightness": Margin(2, 0.4),
    "bright": Margin(15, 0.4),
    "saturated": Margin(0.1, low=False),
    "sharpness": Margin(1.5, high=False),
    "noise": Margin(1.0, 1.0, low=False),
    "depth_noise": Margin(5e-5, 1.0, low=False),
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
    "largest_hole": Margin(4e-6, low=False),
    "hole_count": Margin(0.5, low=False),
    "detached": Margin(4e-6, low=False),
    "part_height": Margin(1e-3, 0.15),
}
"""Margins by measure."""


def learn_envelope(samples: Sequence[Conditions], options: EnvelopeOptions) -> Envelope | None:
    """Return the envelope of good samples, or None with fewer than 2 samples that can be inspected.

    A limit is the Student prediction limit of a normal sample, mean ± t(1 - r/2K, n-1)·s·√(1 + 1/n), for one of K
    measures, but at least the margin of the measure beyond all samples. A measure that some samples lack, such as the
    distance of a support plane, is learnt from the others; one that is not a number in a sample has no limit.

    Args:
        samples: Recording conditions of the training samples and of those that set the thresholds.
        options: Rate, and checks that are switched off.
    """
    usable = [sample for sample in samples if sample.measures]
    if len(usable) < 2:
        return None
    values = {name: _values_of(name, usable) for name in (*MARGINS, *QUARTERS)}
    values = {name: column for name, column in values.items() if len(column) >= 2 and np.isfinite(column).all()}
    measured = [name for name in MARGINS if name in values]
    tail = options.rate / (2 * len(measured))
    weights = _colour_weights(
        [values[name] for name in QUARTERS if name in values], prediction_factor(len(usable), tail)
    )
    limits = {
        name: _limit(values[name], prediction_factor(len(values[name]), tail), MARGINS[name]) for name in measured
    }
    if weights:
        limits = {"order": Limit(1.0, low=LEAST_ORDER), **limits}
    return Envelope(len(usable), options.rate, _sizes(usable), limits, weights, options.off)


def _values_of(name: str, samples: Sequence[Conditions]) -> npt.NDArray[np.float64]:
    """Return the values of a measure, float64 `[n]`, of the samples that have the measure."""
    return np.array([sample.measures[name] for sample in samples if name in sample.measures], dtype=np.float64)


def _sizes(samples: Sequence[Conditions]) -> tuple[tuple[int, int], ...]:
    sizes = sorted({sample.size for sample in samples})
    if len(sizes) <= MOST_SIZES:
        return tuple(sizes)
    widths, heights = zip(*sizes, strict=True)
    return (min(widths), min(heights)), (max(widths), max(heights))


def _limit(values: npt.NDArray[np.float64], factor: float, margin: Margin) -> Limit:
    typical, mean, spread = float(np.median(values)), float(values.mean()), float(values.std(ddof=1))
    least = margin.of(typical)
    low = min(mean - factor * spread, float(values.min()) - least) if margin.low else None
    high = max(mean + factor * spread, float(values.max()) + least) if margin.high else None
    return Limit(typical, low, high)


def _colour_weights(quarters: Sequence[npt.NDArray[np.float64]], factor: float) -> tuple[float, ...]:
    """Return the weights that recognise swapped colours, or none if the training samples do not show the order.

    They do if the prediction limit of the colour order, whose mean is 1, lies above the smallest accepted order.
    """
    if not quarters:
        return ()
    vectors = np.stack(quarters, axis=1)
    weights = colour_weights(vectors)
    if not weights:
        return ()
    order = vectors @ np.array(weights)
    return weights if 1 - factor * float(order.std(ddof=1)) > LEAST_ORDER else ()
