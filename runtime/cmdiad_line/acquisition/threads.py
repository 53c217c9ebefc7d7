"""One thread per source. It connects, waits for orders or arrivals, and connects again after a failure.

A driver may block in native code for ever. So the thread notes since when a call into the driver has been running and
how long it may take; the process sends no sign of life while a call takes longer (`SourceThread.hangs`), and the
supervisor kills and restarts the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

from cmdiad_line.acquisition.pairing import Failure
from cmdiad_line.acquisition.source import (
    Frame,
    FrameRefusedError,
    FrameTimeoutError,
    Order,
    Source,
    SourceError,
    SourceGoneError,
)
from cmdiad_runtime.printable import printable

FIRST_PAUSE_S = 0.1
"""Pause before the first attempt to connect again; it doubles with every attempt."""
LONGEST_PAUSE_S = 5.0
"""Longest pause between two attempts to connect."""
OPEN_LIMIT_S = 60.0
"""Longest time to connect to a sensor: some cameras start for half a minute."""
CHECK_S = 0.5
"""Time between two checks of an idle sensor."""
_ARRIVAL_S = 0.25


@dataclass(frozen=True)
class Captured:
    """Answer to an order.

    Attributes:
        name: Name of the source.
        acquisition_id: Id of the part.
        outcome: The frame, or the reason why there is none.
    """

    name: str
    acquisition_id: int
    outcome: Frame | Failure


@dataclass(frozen=True)
class ArrivedByItself:
    """Frame that arrived by itself, or the refusal of one that cannot be used.

    Attributes:
        name: Name of the source.
        outcome: The frame, or the refusal.
    """

    name: str
    outcome: Frame | FrameRefusedError


@dataclass(frozen=True)
class Connection:
    """Report that a source was connected or lost.

    Attributes:
        name: Name of the source.
        connected: True if connected.
        message: Facts of the sensor, or the problem.
        facts: Facts of the sensor for the record.
        again: True if the source was connected before and lost in the meantime.
    """

    name: str
    connected: bool
    message: str
    facts: dict[str, str]
    again: bool


_Returned = TypeVar("_Returned")
Report = Captured | ArrivedByItself | Connection


class SourceThread:
    """A source and its thread.

    Args:
        name: Name of the source.
        source: The source, not yet open. Only the thread uses it.
        timeout_s: Longest time to wait for a frame.
        pushes: True if frames arrive by themselves.
        report: Receiver of reports, called in the thread.

    Attributes:
        name: See Args.
    """

    def __init__(
        self, name: str, source: Source, timeout_s: float, *, pushes: bool, report: Callable[[Report], None]
    ) -> None:
        self.name = name
        self._source = source
        self._timeout_s = timeout_s
        self._report = report
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._busy = False
        self._room = Semaphore(1)
        self._closing = Event()
        self._limit: tuple[int, float] | None = None
        self._was_open = False
        self._work = self._wait_for_arrivals if pushes else self._wait_for_orders
        # A daemon, so that a driver that never returns cannot keep the process from ending.
        self._thread = Thread(target=self._run, name=f"cmdiad-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, order: Order) -> bool:
        """Pass an order to the thread; return False if the sensor is still at work for another one."""
        if self._busy:
            return False
        self._busy = True
        self._orders.put(order)
        return True

    def take_next(self) -> None:
        """Allow the next arrival, after the last one has found its place."""
        self._room.release()

    def hangs(self, now_ns: int, grace_s: float) -> bool:
        """Return True if a call into the driver takes longer than it may.

        Args:
            now_ns: Present monotonic time.
            grace_s: Seconds beyond the time that the call was limited to.
        """
        limit = self._limit
        return limit is not None and now_ns - limit[0] > (limit[1] + grace_s) * 1e9

    def close(self, wait_s: float = 1.0) -> None:
        """End the thread. Does not wait long for a driver that does not return."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closing.is_set():
            try:
                facts = self._call(OPEN_LIMIT_S, self._source.open)
                self._refuse_waiting()
                self._report(Connection(self.name, True, _described(facts), facts, self._was_open))
                self._was_open, pause_s = True, FIRST_PAUSE_S
                self._work()
            except SourceGoneError as error:
                self._report(Connection(self.name, False, str(error), {}, False))
            except Exception as error:  # A driver may raise anything; the station must continue.
                self._report(Connection(self.name, False, _unforeseen(error), {}, False))
            with suppress(Exception):
                self._call(OPEN_LIMIT_S, self._source.close)
            self._refuse_waiting()
            self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _wait_for_orders(self) -> None:
        """Serve orders until the sensor is gone or the thread ends."""
        while not self._closing.is_set():
            try:
                order = self._orders.get(timeout=CHECK_S)
            except Empty:
                self._call(self._timeout_s, self._source.check)
                continue
            try:
                outcome = self._capture(order)
            except SourceGoneError as error:
                self._answer(order, Failure(reason="camera-gone", message=f"{self.name}: {error}"))
                raise
            except Exception as error:
                self._answer(order, Failure(reason="acquisition-failed", message=f"{self.name}: {_unforeseen(error)}"))
                raise
            self._answer(order, outcome)

    def _refuse_waiting(self) -> None:
        """Refuse an order that came while the sensor was away, because it must not be served late."""
        with suppress(Empty):
            while True:
                order = self._orders.get_nowait()
                self._answer(order, Failure(reason="camera-gone", message=f"{self.name} was away"))

    def _capture(self, order: Order) -> Frame | Failure:
        try:
            self._call(self._timeout_s, lambda: self._source.trigger(order))
            return self._call(self._timeout_s, lambda: self._source.frame(self._timeout_s))
        except FrameTimeoutError:
            message = f"{self.name}: no frame within {1000 * self._timeout_s:.0f} ms"
            return Failure(reason="acquisition-failed", message=message)
        except SourceError as error:
            return Failure(reason="acquisition-failed", message=f"{self.name}: {error}")

    def _answer(self, order: Order, outcome: Frame | Failure) -> None:
        self._busy = False
        self._report(Captured(self.name, order.acquisition_id, outcome))

    def _wait_for_arrivals(self) -> None:
        """Report arrivals, one at a time, until the source is gone or the thread ends."""
        while not self._closing.is_set():
            if not self._room.acquire(timeout=CHECK_S):
                continue
            try:
                self._report(ArrivedByItself(self.name, self._next_arrival()))
            except FrameTimeoutError:
                self._room.release()
                self._call(self._timeout_s, self._source.check)
            except BaseException:
                self._room.release()
                raise

    def _next_arrival(self) -> Frame | FrameRefusedError:
        try:
            return self._call(self._timeout_s + _ARRIVAL_S, lambda: self._source.frame(_ARRIVAL_S))
        except FrameRefusedError as error:
            return error

    def _call(self, limit_s: float, function: Callable[[], _Returned]) -> _Returned:
        """Call into the driver, and note the start and the time limit of the call."""
        self._limit = time.monotonic_ns(), limit_s
        try:
            return function()
        finally:
            self._limit = None


def _described(facts: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _unforeseen(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")[:300]
