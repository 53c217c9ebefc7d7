"""The loop of the inspection process.

A sample that cannot be used is NG with the reason of the runtime. If the engine or the memory fails, the part is NG and
the process ends: the supervisor starts a new one, which must pass the self-test before it gives a verdict.
"""

from __future__ import annotations

import math
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from cmdiad_line.inspection.detector import Detector, peak_of
from cmdiad_line.inspection.loader import Loader
from cmdiad_line.reasons import STATION_REASONS, StationReason
from cmdiad_line.transport.frames import FramePool, WrongFrameError, frames_path
from cmdiad_line.transport.link import Link
from cmdiad_line.transport.messages import (
    Alive,
    ArrayPlace,
    End,
    Inspect,
    Inspected,
    Load,
    Loaded,
    Message,
    NotLoaded,
    Probe,
    Proved,
    Ready,
    Unload,
)
from cmdiad_runtime.errors import CmdiadError, EngineError
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.printable import printable

if TYPE_CHECKING:
    from cmdiad_line.station_file.station import Station

_ALIVE_S = 0.4


class EngineBrokenError(RuntimeError):
    """The engine or the memory failed: this process must not give another verdict."""


def serve(link: Link, station: Station) -> None:
    """Load and inspect until the supervisor ends this process.

    Raises:
        EngineBrokenError: The engine or the memory failed; the part was answered with NG before.
        LinkClosedError: The supervisor has ended.
    """
    pool = FramePool.attach(frames_path(station.state))
    loader = Loader()
    try:
        inspection = _Inspection(link, pool, loader)
        link.send(Ready())
        while inspection.step():
            pass
    finally:
        loader.close()
        pool.close()


class _Inspection:
    def __init__(self, link: Link, pool: FramePool, loader: Loader) -> None:
        self._link, self._pool, self._loader = link, pool, loader
        self._detectors: dict[str, Detector] = {}

    def step(self) -> bool:
        """Wait for something to do and do it; return False at the end."""
        readable, _, _ = select.select([self._link.fileno(), self._loader.fileno()], [], [], _ALIVE_S)
        if self._loader.fileno() in readable:
            for result in self._loader.finished():
                self._take(result)
        if self._link.fileno() in readable:
            for message in self._link.receive():
                if isinstance(message, End):
                    return False
                self._handle(message)
        self._link.send(Alive())
        return True

    def _handle(self, message: Message) -> None:
        if isinstance(message, Inspect):
            self._inspect(message)
        elif isinstance(message, Probe):
            self._link.send(self._probe(message))
        elif isinstance(message, Load):
            self._loader.order(message, self._detectors.get(message.recipe_id))
        elif isinstance(message, Unload):
            detector = self._detectors.pop(message.recipe_id, None)
            if detector is not None:
                detector.close()

    def _take(self, result: Detector | NotLoaded) -> None:
        if isinstance(result, NotLoaded):
            self._link.send(result)
            return
        recipe_id = result.load.recipe_id
        previous = self._detectors.get(recipe_id)
        if previous is not None and previous.engine is not result.engine:
            previous.close()
        self._detectors[recipe_id] = result
        self._link.send(
            Loaded(
                recipe_id=recipe_id,
                modality=result.bundle.preprocessing.modality,
                engine=result.engine.description,
                threshold=float(result.inspector.thresholds[0]),
                milliseconds=result.milliseconds,
            )
        )

    def _inspect(self, order: Inspect) -> None:
        """Answer with the verdict; end this process if the engine or the memory failed."""
        detector = self._detectors.get(order.recipe_id)
        if detector is None:
            self._link.send(_refused(order, "recipe-changed"))
            return
        try:
            arrays = self._pool.read(order.slot, order.acquisition_id, order.arrays)
            start = time.perf_counter()
            inspection = detector.inspect(order.acquisition_id, arrays)
            inspection.timings_ms["detector"] = (time.perf_counter() - start) * 1e3
        except WrongFrameError as error:
            self._link.send(_refused(order, "wrong-frame", printable(str(error))))
            return
        except (EngineError, MemoryError) as error:
            problem = printable(str(error)) or type(error).__name__
            self._link.send(_refused(order, "inspection-failed", problem))
            raise EngineBrokenError(problem) from error
        self._link.send(_answer(order, detector, inspection, self._add_map(order, inspection)))

    def _add_map(self, order: Inspect, inspection: Inspection) -> ArrayPlace | None:
        """Write the map next to the frame, and return its place, or None if the map does not fit."""
        if inspection.map is None:
            return None
        with suppress(WrongFrameError, ValueError):
            return self._pool.add_map(order.slot, order.acquisition_id, inspection.map)
        return None

    def _probe(self, order: Probe) -> Proved:
        detector = self._detectors.get(order.recipe_id)
        if detector is None:
            return Proved(token=order.token, passed=False, message=f"The recipe {order.recipe_id} is not loaded.")
        try:
            comparison = detector.probe(order.token)
        except (CmdiadError, MemoryError) as error:
            return Proved(token=order.token, passed=False, message=printable(str(error)) or type(error).__name__)
        message = f"The score differs by {comparison.score_max_share:.2%} of the threshold."
        return Proved(token=order.token, passed=comparison.passed, message=message)


def _answer(order: Inspect, detector: Detector, inspection: Inspection, place: ArrayPlace | None) -> Inspected:
    threshold, map_threshold = detector.inspector.thresholds
    view = inspection.view
    return Inspected(
        acquisition_id=order.acquisition_id,
        recipe_id=order.recipe_id,
        verdict=inspection.verdict,
        reason=inspection.reason or "",
        message=printable(inspection.message),
        score=float(inspection.score) if math.isfinite(inspection.score) else None,
        threshold=float(threshold),
        map_threshold=float(map_threshold),
        map=place,
        square=None if view is None else (view.top, view.left, view.side, view.height, view.width),
        peak=peak_of(inspection),
        timings_ms=inspection.timings_ms,
        map_max=None if inspection.map is None else float(inspection.map.max()),
    )


def _refused(order: Inspect, reason: StationReason, message: str = "") -> Inspected:
    """Return the answer NG for a frame that was not inspected."""
    return Inspected(
        acquisition_id=order.acquisition_id,
        recipe_id=order.recipe_id,
        verdict="NG",
        reason=reason,
        message=message or STATION_REASONS[reason],
        score=None,
        threshold=0.0,
        map_threshold=0.0,
        map=None,
        square=None,
        peak=None,
        timings_ms={},
    )
