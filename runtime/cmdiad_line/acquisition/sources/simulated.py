"""Simulated camera and 3D sensor, with faults on request.

The acquisition id determines the part in front of the sensors: sample `id % number of samples` of a folder, or a
generated pattern. So two simulated sensors see the same part, and a test can compute which one.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_line.acquisition.source import Frame, FrameTimeoutError, Order, SourceError, SourceGoneError, arrays_of
from cmdiad_line.station_file.source import FAULTS, SimulatedSource, modalities_of
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.inputs import find_cloud, list_inputs
from cmdiad_runtime.readers import image_colour
from cmdiad_runtime.readers.reading import read_files

MOST_SAMPLES = 256
"""Largest number of samples of a folder that are used."""
_IN_MEMORY = 32
"""Number of samples that are kept in memory."""


def make(settings: SimulatedSource, state: Path) -> Simulated:
    """Return a simulated sensor.

    Args:
        settings: Section of the station file.
        state: State folder of the station, not used.
    """
    return Simulated(settings)


class Simulated:
    """A simulated sensor; see `Source`.

    Args:
        settings: Section of the station file.
    """

    def __init__(self, settings: SimulatedSource) -> None:
        self._settings = settings
        self._draw = np.random.default_rng(settings.seed)
        self._scene = _Folder(settings) if settings.data else _Pattern(settings)
        self._order: Order | None = None
        self._fault = ""
        self._number = 0
        self._last: Frame | None = None
        self._back_ns = 0

    def open(self) -> dict[str, str]:
        """Connect; see `Source.open`."""
        self.check()
        self._scene.open()
        return {"serial": f"simulated-{self._settings.seed}"}

    def check(self) -> None:
        """Raise SourceGoneError while the fault "unplug" lasts."""
        if time.monotonic_ns() < self._back_ns:
            raise SourceGoneError("unplugged (simulated)")

    def trigger(self, order: Order) -> None:
        """Begin an exposure; see `Source.trigger`."""
        self._order, self._fault = order, self._next_fault()
        if self._fault == "unplug":
            self._back_ns = time.monotonic_ns() + self._settings.unplug_ms * 10**6
        self.check()
        if self._fault == "error":
            raise SourceError("an error of the sensor (simulated)")

    def frame(self, timeout_s: float) -> Frame:
        """Return the frame of the last trigger, changed by its fault; see `Source.frame`."""
        if self._order is None:
            raise SourceError("no trigger")
        fault, last = self._fault, self._last
        self._wait(self._settings.exposure_ms / 1000, timeout_s)
        if fault == "hang":
            Event().wait()
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "lose":
            self._wait(timeout_s, timeout_s)
        self._number += 1
        order = self._order
        frame = Frame(
            arrays=self._scene.arrays(order.acquisition_id),
            captured_ns=time.monotonic_ns(),
            acquisition_id=order.acquisition_id,
            number=self._number,
            facts={"temperature": "25.0"},
        )
        if fault == "delay":
            self._wait(self._settings.delay_ms / 1000, timeout_s)
        self._last = _changed(frame, fault, last, self._draw)
        return self._last

    def close(self) -> None:
        """Disconnect; see `Source.close`."""
        self._order = None

    def _next_fault(self) -> str:
        """Return the fault of this trigger: the next one of the fault file, else one by chance, else ""."""
        requested = _take_line(self._settings.fault_file)
        if requested is not None:
            return requested
        names, shares = list(self._settings.faults), list(self._settings.faults.values())
        chance = self._draw.random()
        for name, limit in zip(names, np.cumsum(shares), strict=True):
            if chance < limit:
                return name
        return ""

    def _wait(self, duration_s: float, timeout_s: float) -> None:
        """Wait, or raise FrameTimeoutError if this takes longer than the time limit."""
        time.sleep(min(duration_s, timeout_s))
        if duration_s >= timeout_s:
            raise FrameTimeoutError


def _changed(frame: Frame, fault: str, last: Frame | None, draw: np.random.Generator) -> Frame:
    """Return a good frame with the changes of a fault."""
    if fault == "swap":
        return replace(frame, acquisition_id=frame.acquisition_id - 1)
    if fault == "stale":  # Time, number and content of an earlier frame.
        earlier = last or replace(frame, captured_ns=frame.captured_ns - 10**12)
        return replace(earlier, acquisition_id=frame.acquisition_id)
    if fault in ("repeat", "freeze") and last is not None:
        return replace(frame, arrays=last.arrays, number=last.number if fault == "repeat" else frame.number)
    if fault == "noise":
        return replace(frame, arrays={name: _noise(array, draw) for name, array in frame.arrays.items()})
    if fault == "size":
        return replace(frame, arrays={name: array[::2, ::2] for name, array in frame.arrays.items()})
    return frame


def _noise(array: npt.NDArray[Any], draw: np.random.Generator) -> npt.NDArray[Any]:
    if array.dtype == np.uint8:
        return draw.integers(0, 256, array.shape, dtype=np.uint8)
    return draw.normal(size=array.shape).astype(np.float32)


def _take_line(file: Path | None) -> str | None:
    """Remove the first line of a file and return it; None if there is none."""
    if file is None or not file.exists():
        return None
    first, _, others = file.read_text(encoding="utf-8").partition("\n")
    if others.strip():
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(others, encoding="utf-8")
        temporary.replace(file)
    else:
        file.unlink()
    name = first.strip()
    return name if name in FAULTS else ""


class _Pattern:
    """Generated parts: a disc on a plate with noise, at a place that depends on the part."""

    def __init__(self, settings: SimulatedSource) -> None:
        self._settings = settings

    def open(self) -> None:
        """Nothing to prepare."""

    def arrays(self, part: int) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a part."""
        settings = self._settings
        draw = np.random.default_rng((settings.seed, part))
        height, width = settings.height, settings.width
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        row, column = draw.uniform(0.4, 0.6, 2) * (height, width)
        disc = np.hypot(rows - row, columns - column) < min(height, width) / 4
        arrays: dict[str, npt.NDArray[Any]] = {}
        if "rgb" in modalities_of(settings.delivers):
            grey = np.where(disc, 170, 60)[..., None] + draw.integers(-3, 4, (height, width, 3))
            arrays["rgb"] = grey.astype(np.uint8)
        if "xyz" in modalities_of(settings.delivers):
            pitch = 0.2 / width
            depth = np.where(disc, 0.48, 0.5) + draw.normal(0, 1e-4, (height, width))
            points = np.stack([(columns - width / 2) * pitch, (rows - height / 2) * pitch, depth], axis=-1)
            arrays["xyz"] = points.astype(np.float32)
        return arrays


class _Folder:
    """Samples of a folder. A sample is read when a part needs it, and the last ones are kept in memory."""

    def __init__(self, settings: SimulatedSource) -> None:
        self._settings = settings
        self._files: list[Path] = []
        self._read = lru_cache(_IN_MEMORY)(self._read_sample)

    def open(self) -> None:
        """List the samples, sorted by name."""
        folder = self._settings.data
        assert folder is not None
        try:
            self._files = list_inputs([folder], self._settings.delivers)[:MOST_SAMPLES]
        except InputError as error:
            raise SourceGoneError(str(error)) from error

    def arrays(self, part: int) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a part."""
        try:
            return self._read(self._files[part % len(self._files)])
        except InputError as error:
            raise SourceError(str(error)) from error

    def _read_sample(self, path: Path) -> dict[str, npt.NDArray[Any]]:
        delivers = self._settings.delivers
        image = None if delivers == "xyz" else path
        cloud = path if delivers == "xyz" else None
        if delivers == "both":
            cloud = find_cloud(path)
        return arrays_of(read_files(str(path), image, cloud, colour="rgb" if image is None else image_colour(image)))
