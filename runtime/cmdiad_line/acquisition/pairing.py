"""The frames of one part, brought together.

A part is accepted only if all its sensors have delivered a frame of this part, at the same moment. Otherwise there is a
reason why not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_line.acquisition.source import Frame
from cmdiad_line.reasons import StationReason
from cmdiad_line.station_file.source import modalities_of
from cmdiad_line.transport.messages import Acquire
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.sample import describe_array

_TYPES = {"rgb": np.dtype(np.uint8), "xyz": np.dtype(np.float32)}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Reason why there is no frame.

    Attributes:
        reason: Reason code of the NG.
        message: One line for people.
    """

    reason: Reason | StationReason
    message: str


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Arrays of all sensors for one part.

    Attributes:
        arrays: "rgb" and/or "xyz".
        captured_ns: Time of the earliest exposure.
        sensors: Facts of all sensors, each with the name of its sensor as prefix.
    """

    arrays: dict[str, npt.NDArray[Any]]
    captured_ns: int
    sensors: dict[str, str]


@dataclass(kw_only=True)
class Pairing:
    """Frames and failures of the sensors for one part so far.

    Attributes:
        order: Order to acquire the part.
        needed: Names of the sensors that were triggered.
        skew_ns: Largest difference between two exposures.
        frames: Frames by sensor.
        failures: Failures by sensor.
    """

    order: Acquire
    needed: tuple[str, ...]
    skew_ns: int
    frames: dict[str, Frame] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    @property
    def decided(self) -> bool:
        """Return True if every sensor has delivered or failed, or nothing can make the part good any more."""
        lost = any(failure.reason in ("overrun", "camera-gone") for failure in self.failures.values())
        return lost or not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the names of the sensors that have neither delivered nor failed."""
        return tuple(name for name in self.needed if name not in self.frames and name not in self.failures)

    def finish(self) -> Paired | Failure:
        """Return the arrays of the part, or the reason why there are none."""
        return self._failure() or self._foreign() or self._apart() or _joined(self.frames, self.order.modality)

    def _failure(self) -> Failure | None:
        """Return the failure of a sensor; "partner-missing" if another one has delivered and this one was silent."""
        silent = {name: Failure(reason="acquisition-failed", message=f"{name}: no answer") for name in self.missing}
        failures = {**self.failures, **silent}
        if not failures:
            return None
        failure = next(iter(failures.values()))
        if self.frames and failure.reason == "acquisition-failed":
            partners = " and ".join(self.frames)
            return Failure(reason="partner-missing", message=f"{partners} delivered a frame, but {failure.message}")
        return failure

    def _foreign(self) -> Failure | None:
        """Return a failure if a frame was captured for another part."""
        for name, frame in self.frames.items():
            part = self.order.acquisition_id
            if frame.acquisition_id != part:
                message = f"{name} delivered the frame of part {frame.acquisition_id} for part {part}"
                return Failure(reason="wrong-frame" if len(self.needed) == 1 else "partner-missing", message=message)
        return None

    def _apart(self) -> Failure | None:
        """Return a failure if the exposures were not at the same moment."""
        times = sorted((frame.captured_ns, name) for name, frame in self.frames.items())
        (first, earlier), (last, later) = times[0], times[-1]
        if last - first <= self.skew_ns:
            return None
        message = f"{later} was exposed {(last - first) / 1e6:.0f} ms after {earlier}, at most {self.skew_ns / 1e6:.0f}"
        return Failure(reason="partner-missing", message=f"{message} ms are allowed")


def _joined(frames: Mapping[str, Frame], modality: str) -> Paired | Failure:
    """Return the arrays of all sensors together, or the failure of an array that is missing or of a wrong type."""
    modalities = modalities_of(modality)
    arrays: dict[str, npt.NDArray[Any]] = {}
    sensors: dict[str, str] = {}
    for name, frame in frames.items():
        arrays |= {key: array for key, array in frame.arrays.items() if key in modalities}
        sensors |= {f"{name}.{fact}": value for fact, value in frame.facts.items()}
        if frame.number is not None:
            sensors[f"{name}.frame"] = str(frame.number)
    for key in modalities:
        array = arrays.get(key)
        if array is None:
            return Failure(reason="partner-missing", message=f"no sensor delivered {key}")
        if array.dtype != _TYPES[key] or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            problem = f"{key} is {describe_array(array)}, expected {_TYPES[key]} [h, w, 3]"
            return Failure(reason="wrong-array", message=problem)
    return Paired(arrays=arrays, captured_ns=min(frame.captured_ns for frame in frames.values()), sensors=sensors)
