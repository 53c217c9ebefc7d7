"""Recognition of frames that a sensor has delivered before, or that are older than the trigger."""

from __future__ import annotations

import zlib
from collections import deque

import numpy as np

from cmdiad_line.acquisition.source import Frame

_LAST_NUMBERS = (0xFFFF, 0xFFFFFFFF)
"""Numbers after which a camera with 16 or 32 bits counts from the beginning."""
REMEMBERED = 16
"""Number of frames whose checksums are remembered. A driver that delivers its buffers again has fewer."""


class StaleFrameError(Exception):
    """A frame does not show the part that was triggered."""


class Freshness:
    """Memory of the last frames of one sensor.

    Args:
        name: Name of the sensor, for messages.
        noisy: True if two exposures never have the same bytes, as those of a real sensor, so that identical bytes mean
            a frame that was delivered before.
    """

    def __init__(self, name: str, *, noisy: bool) -> None:
        self._name = name
        self._noisy = noisy
        self._number: int | None = None
        self._captured_ns = 0
        self._checksums: deque[dict[str, int]] = deque(maxlen=REMEMBERED)

    def check(self, frame: Frame, triggered_ns: int) -> None:
        """Raise StaleFrameError unless a frame is new.

        Args:
            frame: Frame that the sensor has delivered.
            triggered_ns: Time of the trigger.
        """
        number, captured_ns = self._number, self._captured_ns
        repeated = self._repeated(frame)
        self._number = frame.number
        self._captured_ns = max(captured_ns, frame.captured_ns)
        if frame.captured_ns < triggered_ns:
            age_ms = (triggered_ns - frame.captured_ns) / 1e6
            raise StaleFrameError(f"{self._name}: the frame was captured {age_ms:.1f} ms before the trigger")
        if frame.captured_ns <= captured_ns:
            raise StaleFrameError(f"{self._name}: the frame is not younger than the one before")
        wrapped = number in _LAST_NUMBERS and frame.number in (0, 1)
        if number is not None and frame.number is not None and frame.number <= number and not wrapped:
            raise StaleFrameError(f"{self._name}: frame number {frame.number} comes after {number}")
        if repeated:
            raise StaleFrameError(
                f"{self._name}: {repeated} has the same bytes as in an earlier frame. Only for generated pictures, set "
                "noisy = false"
            )

    def reset(self) -> None:
        """Forget the frame number: a sensor that was connected again starts to count again."""
        self._number = None

    def _repeated(self, frame: Frame) -> str:
        """Remember a frame, and return the name of an array that was delivered before, or ""."""
        if not self._noisy:
            return ""
        sums = {name: zlib.crc32(np.ascontiguousarray(array).data) for name, array in frame.arrays.items()}
        earlier = list(self._checksums)
        self._checksums.append(sums)
        return next((name for name in sums for others in earlier if others.get(name) == sums[name]), "")
