"""Recognition of frames that a sensor has delivered before, or that are older than the trigger."""

from __future__ import annotations

import zlib

import numpy as np

from cmdiad_line.acquisition.source import Frame

_LAST_NUMBERS = (0xFFFF, 0xFFFFFFFF)
"""Numbers after which a camera with 16 or 32 bits counts from the beginning."""


class StaleFrameError(Exception):
    """A frame does not show the part that was triggered."""


class Freshness:
    """Memory of the last frame of one sensor.

    Args:
        name: Name of the sensor, for messages.
        noisy: True if two exposures never have the same bytes, as those of a real sensor, so that identical bytes mean
            a frozen sensor.
    """

    def __init__(self, name: str, *, noisy: bool) -> None:
        self._name = name
        self._noisy = noisy
        self._number: int | None = None
        self._captured_ns = 0
        self._checksums: dict[str, int] = {}

    def check(self, frame: Frame, triggered_ns: int) -> None:
        """Raise StaleFrameError unless a frame is new.

        Args:
            frame: Frame that the sensor has delivered.
            triggered_ns: Time of the trigger.
        """
        number, captured_ns, checksums = self._number, self._captured_ns, self._checksums
        self._number, self._checksums = frame.number, self._sums(frame)
        self._captured_ns = max(captured_ns, frame.captured_ns)
        if frame.captured_ns < triggered_ns:
            age_ms = (triggered_ns - frame.captured_ns) / 1e6
            raise StaleFrameError(f"{self._name}: the frame was captured {age_ms:.1f} ms before the trigger")
        if frame.captured_ns <= captured_ns:
            raise StaleFrameError(f"{self._name}: the frame is not younger than the one before")
        wrapped = number in _LAST_NUMBERS and frame.number in (0, 1)
        if number is not None and frame.number is not None and frame.number <= number and not wrapped:
            raise StaleFrameError(f"{self._name}: frame number {frame.number} comes after {number}")
        repeated = [name for name, checksum in self._checksums.items() if checksums.get(name) == checksum]
        if repeated:
            raise StaleFrameError(f"{self._name}: {repeated[0]} has the same bytes as in the frame before")

    def reset(self) -> None:
        """Forget the frame number: a sensor that was connected again starts to count again."""
        self._number = None

    def _sums(self, frame: Frame) -> dict[str, int]:
        if not self._noisy:
            return {}
        return {name: zlib.crc32(np.ascontiguousarray(array).data) for name, array in frame.arrays.items()}
