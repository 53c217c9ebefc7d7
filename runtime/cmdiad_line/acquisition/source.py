"""The protocol of a source of frames, and what a source returns and raises.

A source is used by one thread only. A frame that may be old, incomplete or of another part is an error, and its part is
NG.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt

from cmdiad_line.reasons import StationReason
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.sample import Sample


class SourceGoneError(Exception):
    """The sensor is not connected. The source is closed, and opened again later."""


class SourceError(Exception):
    """The sensor is connected, but could not deliver this frame."""


class FrameTimeoutError(Exception):
    """No frame arrived in time."""


class FrameRefusedError(Exception):
    """A frame arrived by itself, but cannot be used. The part is NG.

    Args:
        reason: Reason code of the NG.
        message: One line for people.
        part_id: Id of the part, or "".
        answer: See `Frame`.
    """

    def __init__(
        self,
        reason: Reason | StationReason,
        message: str,
        *,
        part_id: str = "",
        answer: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.part_id = part_id
        self.answer = answer


@dataclass(frozen=True, kw_only=True)
class Order:
    """Order to capture a frame.

    Attributes:
        acquisition_id: Id of the part.
        triggered_ns: Time of the trigger, `time.monotonic_ns()`.
    """

    acquisition_id: int
    triggered_ns: int


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame of one sensor.

    Attributes:
        arrays: "rgb", uint8 `[h, w, 3]` in RGB order, and/or "xyz", float32 `[h, w, 3]` in metres, zeros where the
            sensor saw nothing.
        captured_ns: Time of the exposure, `time.monotonic_ns()`; time of the arrival if the sensor has no clock.
        acquisition_id: Id of the part that the sensor was triggered for; 0 for a frame that arrived by itself.
        number: Number of the frame by the sensor's own count, or None if it does not count.
        part_id: Id of the part, if the frame carries one.
        facts: Facts for the record: temperature, file name.
        answer: Function that reports the acquisition id to the sender of a frame that arrived by itself, or None.
    """

    arrays: dict[str, npt.NDArray[Any]]
    captured_ns: int
    acquisition_id: int = 0
    number: int | None = None
    part_id: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    answer: Callable[[int], None] | None = None


def arrays_of(sample: Sample) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a sample that was read from files, by name."""
    return {name: array for name, array in (("rgb", sample.rgb), ("xyz", sample.xyz)) if array is not None}


class Source(Protocol):
    """A sensor, or another source of frames."""

    def open(self) -> dict[str, str]:
        """Connect, and return facts for the record, such as the serial number.

        Raises:
            SourceGoneError: The sensor is not there; the message names the problem and the remedy.
        """

    def check(self) -> None:
        """Raise SourceGoneError if the sensor is no longer connected. Called twice a second while there is no order."""

    def trigger(self, order: Order) -> None:
        """Discard all frames that wait in the sensor, and begin an exposure.

        Raises:
            SourceGoneError: The sensor is no longer connected.
            SourceError: The sensor refuses.
        """

    def frame(self, timeout_s: float) -> Frame:
        """Return the frame of the last trigger, or the next frame that arrived by itself.

        Args:
            timeout_s: Longest time to wait in seconds.

        Raises:
            FrameTimeoutError: There is none yet.
            FrameRefusedError: A frame arrived by itself, but cannot be used.
            SourceGoneError: The sensor is no longer connected.
            SourceError: The sensor reports an error.
        """

    def close(self) -> None:
        """Disconnect. Idempotent, and never raises SourceGoneError."""
