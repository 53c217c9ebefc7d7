"""Record of the limits within which a sample counts as recorded like the good training samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cmdiad_runtime.envelope.image_measures import QUARTERS
from cmdiad_runtime.envelope.names import CHECKS, MEASURES
from cmdiad_runtime.support.records import (
    LARGEST_NUMBER,
    NewerRecordError,
    RecordError,
    fields_from_json,
    make_tuple,
    require,
    require_integer,
    require_number,
    require_numbers,
    require_object,
)

MOST_SIZES = 64
"""Largest number of image sizes in a record; of more sizes, the smallest and the largest are kept."""
_LARGEST_SIDE = 1 << 20


@dataclass(frozen=True)
class Limit:
    """Smallest and largest accepted value of one measure.

    Attributes:
        typical: Median of the training samples.
        low: Smallest accepted value, or None if there is no lower limit.
        high: Largest accepted value, or None if there is no upper limit.

    Raises:
        RecordError: A value has the wrong kind, or the limits contradict each other.
    """

    typical: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        require_number(self, "typical", -LARGEST_NUMBER, LARGEST_NUMBER)
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                require_number(self, name, -LARGEST_NUMBER, LARGEST_NUMBER)
        low, high = self.low, self.high
        require(low is None or high is None or low <= high, self, "high", "a number from the lower limit on")

    def holds(self, value: float) -> bool:
        """Return True if a value lies within the limits; False for NaN."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @staticmethod
    def from_json(value: object) -> Limit:
        """Read a limit from parsed JSON; raises RecordError."""
        return Limit(**fields_from_json(Limit, value))


@dataclass(frozen=True)
class Envelope:
    """Limits of all measures, learned from the good training samples.

    Attributes:
        samples: Number of good training samples that the limits are learnt from.
        false_alarm_rate: Stated share of good samples that all limits together refuse, in (0, 1).
        sizes: Width and height of the training samples, pixels. With several sizes, every size between the smallest
            and the largest width and height is accepted.
        limits: Limit of each measure, by name; see `cmdiad_runtime.envelope.names`.
        colour_weights: Weights that recognise swapped colour channels, see `cmdiad_runtime.envelope.colour_order`;
            empty if the training samples do not show the order.
        off: Names of the checks that are switched off.

    Raises:
        NewerRecordError: A measure or a check is unknown.
        RecordError: A value has the wrong kind or is out of range.
    """

    samples: int
    false_alarm_rate: float
    sizes: tuple[tuple[int, int], ...]
    limits: Mapping[str, Limit]
    colour_weights: tuple[float, ...] = ()
    off: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_integer(self, "samples", 1, 1 << 40)
        require_number(self, "false_alarm_rate", 0, 1)
        require(0 < self.false_alarm_rate < 1, self, "false_alarm_rate", "a number between 0 and 1")
        make_tuple(self, "sizes")
        pairs = all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in self.sizes)
        require(pairs and 0 < len(self.sizes) <= MOST_SIZES, self, "sizes", f"1 to {MOST_SIZES} pairs of pixels")
        sides = (side for pair in self.sizes for side in pair)
        require(all(_is_side(side) for side in sides), self, "sizes", "pairs of whole numbers of pixels")
        object.__setattr__(self, "sizes", tuple((width, height) for width, height in self.sizes))
        require_object(self, "limits")
        require(all(isinstance(v, Limit) for v in self.limits.values()), self, "limits", "a limit for each measure")
        require(bool(self.limits), self, "limits", "at least one limit")
        make_tuple(self, "colour_weights")
        require_numbers(self, "colour_weights", -LARGEST_NUMBER, LARGEST_NUMBER)
        require(
            len(self.colour_weights) in (0, len(QUARTERS)), self, "colour_weights", f"{len(QUARTERS)} or no numbers"
        )
        make_tuple(self, "off")
        require(all(isinstance(name, str) for name in self.off), self, "off", "names of checks")
        for kind, names, known in (("measure", self.limits, MEASURES), ("check", self.off, CHECKS)):
            unknown = sorted(name for name in names if name not in known)
            if unknown:
                raise NewerRecordError(f"Envelope has the unknown {kind} {', '.join(unknown)[:200]}")

    def without(self, checks: Iterable[str]) -> Envelope:
        """Return the envelope with further checks switched off; raises NewerRecordError for an unknown check."""
        return replace(self, off=tuple(name for name in CHECKS if name in {*self.off, *checks}))

    @staticmethod
    def from_json(value: object) -> Envelope:
        """Read an envelope from parsed JSON.

        Raises:
            NewerRecordError: The object has an unknown field, measure or check.
            RecordError: A field is missing, has the wrong kind or is out of range.
        """
        content = fields_from_json(Envelope, value)
        limits = content["limits"]
        if not isinstance(limits, dict):
            raise RecordError(f"Envelope.limits is {limits!r:.60}, expected an object")
        return Envelope(**{**content, "limits": {name: Limit.from_json(limit) for name, limit in limits.items()}})

    def to_json(self) -> dict[str, Any]:
        """Return the envelope as a JSON object."""
        content = asdict(self)
        content["limits"] = {name: asdict(limit) for name, limit in self.limits.items()}
        content["sizes"] = [list(pair) for pair in self.sizes]
        return {**content, "colour_weights": list(self.colour_weights), "off": list(self.off)}


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_SIDE
