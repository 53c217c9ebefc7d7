"""Kinds of images: colour, grey, and grey of 16 bits with the range that becomes the grey levels 0 to 255.

Thermal cameras and other sensors of 16 bits use a small part of their 65536 values, so the upper 8 bits would lose
nearly all contrast. The range is measured on the training images, widened by a quarter on both sides, and stored in
the preprocessing. A value outside the range is refused and never cut: a cut image would hide how hot the part is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.support.records import fields_from_json, require, require_integer

LARGEST = (1 << 16) - 1
"""Largest value of 16 bits."""
_MARGIN = 4  # the measured range is widened by a fourth on both sides
_LEVELS = 255

PlainColour = Literal["rgb", "grey"]
"""Kind of image of 8 bits per channel: colour, or one grey channel."""


@dataclass(frozen=True)
class GreyRange:
    """Conversion of 16-bit values to grey levels: `low` becomes 0, `high` becomes 255, values between are rounded.

    Attributes:
        low: Value that becomes 0.
        high: Value that becomes 255.

    Raises:
        RecordError: The values are not whole, or not in order.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        require_integer(self, "low", 0, LARGEST)
        require_integer(self, "high", 0, LARGEST)
        require(self.low < self.high, self, "high", f"more than low ({self.low})")

    @staticmethod
    def from_json(value: object) -> GreyRange:
        """Read the range that `to_json` wrote; raises RecordError, or NewerRecordError for an unknown field."""
        return GreyRange(**fields_from_json(GreyRange, value))

    def to_json(self) -> dict[str, Any]:
        """Return the range as a JSON object."""
        return {"low": self.low, "high": self.high}

    @property
    def text(self) -> str:
        """Return the conversion as text for people."""
        step = (self.high - self.low) / _LEVELS
        return (
            f"16-bit values {self.low} to {self.high} become the grey levels 0 to 255, one level is {step:.3g} values"
        )

    def levels(self, path: str | PathLike[str], values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
        """Convert values to grey levels.

        Args:
            path: File of the values, for the message.
            values: uint16 `[h, w]`.

        Returns:
            uint8 `[h, w]`.

        Raises:
            InputError: A value is outside the range.
        """
        lowest, highest = int(values.min()), int(values.max())
        if lowest < self.low or highest > self.high:
            raise InputError(
                path,
                found=f"16-bit values from {lowest} to {highest}",
                expected=f"values from {self.low} to {self.high}, the range of training and a quarter more",
                action="check the sensor's range and emissivity, or train with images like this one",
                reason="exposure",
            )
        scaled = (values.astype(np.float64) - self.low) * _LEVELS / (self.high - self.low)
        return np.rint(scaled).astype(np.uint8)


def range_of(images: Iterable[npt.NDArray[np.uint16]]) -> GreyRange | None:
    """Return the range of 16-bit images, widened by a quarter on both sides; None without an image."""
    limits = [(int(image.min()), int(image.max())) for image in images]
    if not limits:
        return None
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    margin = max(1, -(-(high - low) // _MARGIN))
    return GreyRange(max(0, low - margin), min(LARGEST, high + margin))


Colour = PlainColour | GreyRange
"""Kind of image that a sensor delivers and a detector is trained on; a `GreyRange` stands for grey of 16 bits."""


def colour_to_json(colour: Colour) -> object:
    """Return a kind of image as a JSON-ready value: its name, or the range of 16-bit images as an object."""
    return colour.to_json() if isinstance(colour, GreyRange) else colour


def colour_from_json(value: Any) -> Colour:
    """Return the kind of image that `colour_to_json` wrote."""
    return GreyRange.from_json(value) if isinstance(value, dict) else value
