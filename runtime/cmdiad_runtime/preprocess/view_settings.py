"""Settings that the top view and the part view learn from the training parts, stored with the preprocessing."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.support.records import fields_from_json, require, require_number

TEMPLATE_SIZE = 64
"""Pixels: side of a template."""
TOP_CHANNELS = 3
"""Channels of a top view's template: two components of the normal, and coverage."""
PART_CHANNELS = 2
"""Channels of a part view's template: coverage and brightness."""

_LEVELS = 127  # of the stored template, whose values lie in -1 to 1


def encode_template(template: npt.NDArray[np.float32]) -> str:
    """Return a template as base64 text of its values in int8, scaled by 127."""
    stored = np.clip(np.rint(template * _LEVELS), -_LEVELS, _LEVELS).astype(np.int8)
    return base64.b64encode(stored.tobytes()).decode("ascii")


def decode_template(text: str, channels: int) -> npt.NDArray[np.float32]:
    """Return the template of `encode_template`, float32 `[channels, 64, 64]`.

    Raises:
        ValueError: The text is not base64, or has another number of values.
    """
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.int8)
    return values.reshape(channels, TEMPLATE_SIZE, TEMPLATE_SIZE).astype(np.float32) / np.float32(_LEVELS)


@dataclass(frozen=True)
class TopSettings:
    """Scale and direction of the top view.

    Attributes:
        side: Length of the view's edge, metres.
        pitch: Size of a template pixel, metres.
        template: Mean training part, int8 `[3, 64, 64]` over 127, as base64 text.
    """

    side: float
    pitch: float
    template: str

    def __post_init__(self) -> None:
        require_number(self, "side", 1e-4, 1e6)
        require_number(self, "pitch", 1e-6, 1e6)
        require(_is_template(self.template, TOP_CHANNELS), self, "template", "3 x 64 x 64 bytes in base64")

    @cached_property
    def array(self) -> npt.NDArray[np.float32]:
        """Return the template, float32 `[3, 64, 64]`."""
        return decode_template(self.template, TOP_CHANNELS)

    @staticmethod
    def from_json(value: object) -> TopSettings:
        """Read the settings from a JSON object.

        Raises:
            RecordError: A field is missing, unknown or wrong.
        """
        return TopSettings(**fields_from_json(TopSettings, value))


@dataclass(frozen=True)
class PartSettings:
    """Scale and direction of the part view.

    Attributes:
        side: Length of the view's edge, sensor pixels.
        pitch: Size of a template pixel, sensor pixels.
        template: Mean training part, int8 `[2, 64, 64]` over 127, as base64 text.
    """

    side: float
    pitch: float
    template: str

    def __post_init__(self) -> None:
        require_number(self, "side", 0.1, 1 << 17)
        require_number(self, "pitch", 0.01, 1 << 14)
        require(_is_template(self.template, PART_CHANNELS), self, "template", "2 x 64 x 64 bytes in base64")

    @cached_property
    def array(self) -> npt.NDArray[np.float32]:
        """Return the template, float32 `[2, 64, 64]`."""
        return decode_template(self.template, PART_CHANNELS)

    @staticmethod
    def from_json(value: object) -> PartSettings:
        """Read the settings from a JSON object.

        Raises:
            RecordError: A field is missing, unknown or wrong.
        """
        return PartSettings(**fields_from_json(PartSettings, value))


def _is_template(text: object, channels: int) -> bool:
    """Return True if a text decodes to a template with this number of channels."""
    if not isinstance(text, str):
        return False
    try:
        decode_template(text, channels)
    except ValueError:
        return False
    return True
