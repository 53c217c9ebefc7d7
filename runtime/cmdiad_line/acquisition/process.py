"""The process that triggers the sensors and passes their frames on in shared memory."""

from __future__ import annotations

import select
import time
from collections import deque
from contextlib import suppress

from cmdiad_line.acquisition.freshness import Freshness, StaleFrameError
from cmdiad_line.acquisition.pairing import Failure, Pairing
from cmdiad_line.acquisition.source import Frame, FrameRefusedError, Order
from cmdiad_line.acquisition.sources import make_source
from cmdiad_line.acquisition.threads import ArrivedByItself, Captured, Connection, Report, SourceThread
from cmdiad_line.station_file.source import modalities_of
from cmdiad_line.station_file.station import Station
from cmdiad_line.transport.frames import FramePool, FrameTooLargeError, frames_path, pushed_owner
from cmdiad_line.transport.link import Link, LinkFullError
from cmdiad_line.transport.mailbox import Mailbox
from cmdiad_line.transport.messages import (
    Acquire,
    Acquired,
    Alive,
    End,
    Message,
    NotAcquired,
    Pushed,
    Ready,
    Release,
    Result,
    SourcesState,
    Trigger,
    Triggered,
)

ALIVE_NS = 200 * 10**6
"""Time between two signs of life."""
_WAIT_S = 0.05


def serve(link: Link, station: Station) -> None:
    """Serve orders until the supervisor ends the process.

    Args:
        link: Link to the supervisor.
        station: Station with the sensors.

    Raises:
        LinkClosedError: The supervisor has ended.
        OutputError: There is no memory for frames.
    """
    with FramePool.attach(frames_path(station.state)) as pool:
        acquisition = Acquisition(link, station, pool)
        try:
            acquisition.run()
        finally:
            acquisition.close()


class Acquisition:
    """The state and the loop of the process. Drivers are called only in the threads of the sources.

    Args:
        link: Link to the supervisor.
        station: Station with the sensors.
        pool: Frame slots.
    """

    def __init__(self, link: Link, station: Station, pool: FramePool) -> None:
        self._link = link
        self._station = station
        self._pool = pool
        # Slots with a frame come last: after a restart, the records may still be reading their pictures.
        self._free = deque(sorted(range(pool.slots), key=lambda slot: pool.owner(slot) != 0))
        self._reports: Mailbox[Report] = Mailbox()
        self._settings = {source.name: source for source in station.sources}
        self._threads = {
            name: SourceThread(
                name,
                make_source(settings, station.state),
                settings.timeout_ms / 1000,
                pushes=settings.pushes,
                report=self._reports.put,
            )
            for name, settings in self._settings.items()
        }
        self._freshness = {name: Freshness(name, noisy=item.noisy) for name, item in self._settings.items()}
        self._connections: dict[str, Connection] = {}
        self._reconnects = 0
        self._pairings: dict[int, Pairing] = {}
        self._arrivals: deque[ArrivedByItself] = deque()
        self._tokens: dict[int, Frame | FrameRefusedError] = {}
        self._refusals: dict[int, FrameRefusedError] = {}
        self._unanswered: set[int] = set()
        self._token = 0
        self._alive_ns = 0

    def run(self) -> None:
        """Serve orders until `End`.

        Raises:
            LinkClosedError: The supervisor has ended.
        """
        self._link.send(Ready())
        for thread in self._threads.values():
            thread.start()
        self._send_state()
        while True:
            select.select([self._link.fileno(), self._reports.fileno()], [], [], _WAIT_S)
            for message in self._link.receive():
                if isinstance(message, End):
                    return
                self._handle(message)
            for report in self._reports.take():
                self._take(report)
            self._send_arrivals()
            now_ns = time.monotonic_ns()
            self._expire(now_ns)
            self._send_alive(now_ns)

    def close(self) -> None:
        """End the threads of the sources."""
        for thread in self._threads.values():
            thread.close()
        self._reports.close()

    # --- messages ----------------------------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        if isinstance(message, Acquire):
            self._acquire(message)
        elif isinstance(message, Release):
            self._pool.clear(message.slot)
            if message.slot not in self._free:
                self._free.append(message.slot)
        elif isinstance(message, Triggered):
            self._triggered(message)
        elif isinstance(message, Result):
            self._unanswered.discard(message.acquisition_id)

    def _acquire(self, order: Acquire) -> None:
        """Trigger the sensors that a part needs."""
        refusal = self._refusals.pop(order.acquisition_id, None)
        if refusal is not None:
            self._refuse(order.acquisition_id, Failure(reason=refusal.reason, message=refusal.message))
            return
        modalities = set(modalities_of(order.modality))
        needed = tuple(name for name, item in self._settings.items() if modalities & set(modalities_of(item.delivers)))
        problem = self._obstacle(needed)
        if problem is not None:
            self._refuse(order.acquisition_id, problem)
            return
        skew_ns = min(self._settings[name].skew_ms for name in needed) * 10**6
        pairing = Pairing(order=order, needed=needed, skew_ns=skew_ns)
        self._pairings[order.acquisition_id] = pairing
        thread_order = Order(acquisition_id=order.acquisition_id, triggered_ns=order.triggered_ns)
        for name in needed:
            if not self._threads[name].submit(thread_order):
                message = f"{name} was still exposing the part before"
                pairing.failures[name] = Failure(reason="overrun", message=message)
        self._finish_if_decided(pairing)

    def _obstacle(self, needed: tuple[str, ...]) -> Failure | None:
        """Return the reason why sensors cannot be triggered now, or None."""
        if not needed or any(self._settings[name].pushes for name in needed):
            message = "the frames of this station arrive by themselves" if needed else "no sensor for this recipe"
            return Failure(reason="acquisition-failed", message=message)
        for name in needed:
            connection = self._connections.get(name)
            if connection is None or not connection.connected:
                message = connection.message if connection else "not connected yet"
                return Failure(reason="camera-gone", message=f"{name}: {message}")
        if not self._free:
            return Failure(reason="frames-full", message="all frame slots are in use")
        return None

    def _triggered(self, answer: Triggered) -> None:
        """Take the acquisition id of a frame that arrived by itself."""
        arrival = self._tokens.pop(answer.token, None)
        if arrival is None:
            return
        if answer.accepted:
            self._unanswered.add(answer.acquisition_id)
            if isinstance(arrival, FrameRefusedError):
                self._refusals[answer.acquisition_id] = arrival
        if arrival.answer is not None:
            arrival.answer(answer.acquisition_id)

    # --- reports of the threads --------------------------------------------------------------------------------------

    def _take(self, report: Report) -> None:
        if isinstance(report, Captured):
            self._captured(report)
        elif isinstance(report, ArrivedByItself):
            self._arrivals.append(report)
        else:
            self._connections[report.name] = report
            self._reconnects += report.again
            if report.connected:
                self._freshness[report.name].reset()
            self._send_state()

    def _captured(self, report: Captured) -> None:
        pairing, outcome = self._pairings.get(report.acquisition_id), report.outcome
        if isinstance(outcome, Frame):
            try:
                self._freshness[report.name].check(outcome, pairing.order.triggered_ns if pairing else 0)
            except StaleFrameError as error:
                outcome = Failure(reason="stale-frame", message=str(error))
        if pairing is None:
            return  # The part had its result before: at the deadline, or because another sensor failed.
        if isinstance(outcome, Frame):
            outcome = self._prompt(report.name, outcome, pairing.order.triggered_ns)
        if isinstance(outcome, Frame):
            pairing.frames[report.name] = outcome
        else:
            pairing.failures[report.name] = outcome
        self._finish_if_decided(pairing)

    def _prompt(self, name: str, frame: Frame, triggered_ns: int) -> Frame | Failure:
        """Return a frame, or a failure if its exposure was so late that it may show the next part."""
        late_ms, limit_ms = (frame.captured_ns - triggered_ns) / 1e6, self._settings[name].timeout_ms
        if late_ms <= limit_ms:
            return frame
        message = (
            f"{name}: the frame was captured {late_ms:.0f} ms after the trigger, at most {limit_ms} ms are allowed"
        )
        return Failure(reason="acquisition-failed", message=f"{message} (timeout_ms)")

    def _finish_if_decided(self, pairing: Pairing) -> None:
        if pairing.decided:
            self._finish(pairing)

    def _finish(self, pairing: Pairing) -> None:
        """Answer an order, with the frame or with a reason."""
        part = pairing.order.acquisition_id
        del self._pairings[part]
        outcome = pairing.finish()
        if isinstance(outcome, Failure):
            self._refuse(part, outcome)
            return
        if not self._free:
            self._refuse(part, Failure(reason="frames-full", message="all frame slots are in use"))
            return
        slot = self._free.popleft()
        try:
            places = self._pool.write(slot, part, outcome.arrays)
        except FrameTooLargeError as error:
            self._free.append(slot)
            self._refuse(part, Failure(reason="frames-full", message=f"{error}; raise frame_megapixels in [station]"))
            return
        sensors = self._facts(pairing.needed) | outcome.sensors
        captured_ns = outcome.captured_ns
        self._link.send(
            Acquired(acquisition_id=part, slot=slot, arrays=places, captured_ns=captured_ns, sensors=sensors)
        )

    def _refuse(self, acquisition_id: int, failure: Failure) -> None:
        answer = NotAcquired(acquisition_id=acquisition_id, reason=failure.reason, message=failure.message)
        self._link.send(answer)

    def _facts(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return the facts of connected sensors, each with the name of its sensor as prefix."""
        connections = [self._connections[name] for name in names if name in self._connections]
        return {f"{item.name}.{fact}": value for item in connections for fact, value in item.facts.items()}

    # --- frames that arrive by themselves ----------------------------------------------------------------------------

    def _send_arrivals(self) -> None:
        """Send a frame that arrived by itself, if the one before has its result and there is a free slot.

        So several files that arrive at the same moment are no overrun. They wait here, up to `max_frame_age_ms`.
        """
        while self._arrivals and not self._tokens and not self._unanswered:
            if isinstance(self._arrivals[0].outcome, Frame) and not self._free:
                return
            arrival = self._arrivals.popleft()
            self._token += 1
            outcome = arrival.outcome
            message = self._message_of(arrival.name, outcome) if isinstance(outcome, Frame) else outcome
            if isinstance(message, FrameRefusedError):
                self._tokens[self._token] = message
                self._link.send(Trigger(token=self._token, part_id=message.part_id))
            else:
                self._tokens[self._token] = outcome
                self._link.send(message)
            self._threads[arrival.name].take_next()

    def _message_of(self, name: str, frame: Frame) -> Pushed | FrameRefusedError:
        """Write a frame into a slot and return the message, or the refusal of a frame that cannot be used."""
        try:
            self._freshness[name].check(frame, 0)
        except StaleFrameError as error:
            return FrameRefusedError("stale-frame", str(error), part_id=frame.part_id, answer=frame.answer)
        slot = self._free.popleft()
        try:
            places = self._pool.write(slot, pushed_owner(self._token), frame.arrays)
        except FrameTooLargeError as error:
            self._free.append(slot)
            return FrameRefusedError("frames-full", str(error), part_id=frame.part_id, answer=frame.answer)
        return Pushed(
            token=self._token,
            slot=slot,
            arrays=places,
            captured_ns=frame.captured_ns,
            part_id=frame.part_id,
            sensors=self._facts((name,)) | {f"{name}.{fact}": value for fact, value in frame.facts.items()},
        )

    # --- time --------------------------------------------------------------------------------------------------------

    def _expire(self, now_ns: int) -> None:
        """Answer the orders whose deadline has passed, for example because a driver does not return."""
        for pairing in [pairing for pairing in self._pairings.values() if now_ns >= pairing.order.deadline_ns]:
            self._finish(pairing)

    def _send_state(self) -> None:
        parts = []
        for name in self._settings:
            connection = self._connections.get(name)
            state = "connecting" if connection is None else "connected" if connection.connected else connection.message
            parts.append(f"{name}: {state}")
        connected = all(name in self._connections and self._connections[name].connected for name in self._settings)
        self._link.send(SourcesState(connected=connected, message="; ".join(parts), reconnects=self._reconnects))

    def _send_alive(self, now_ns: int) -> None:
        """Send a sign of life, unless a driver hangs: then the supervisor kills this process and starts a new one."""
        grace_s = self._station.hang_ms / 1000
        if now_ns - self._alive_ns < ALIVE_NS or any(
            thread.hangs(now_ns, grace_s) for thread in self._threads.values()
        ):
            return
        self._alive_ns = now_ns
        with suppress(LinkFullError):
            self._link.send(Alive())
