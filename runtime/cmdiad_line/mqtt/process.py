"""The process `mqtt`, which sends every result and the state of the station to the broker."""

from __future__ import annotations

import contextlib
import logging
import re
import select
import time
from dataclasses import replace

from cmdiad_line.mqtt.connection import IN_FLIGHT, Confirmed, Connected, Connection, Disconnected, Event, Received
from cmdiad_line.mqtt.dialect import Dialect, StateRequest
from cmdiad_line.mqtt.json_topics import JsonTopics
from cmdiad_line.mqtt.outbox import Outbox
from cmdiad_line.mqtt.payloads import Request, RequestError, result_payload
from cmdiad_line.mqtt.sparkplug import EdgeNode
from cmdiad_line.station_file.mqtt import Mqtt
from cmdiad_line.station_file.station import Station
from cmdiad_line.transport.link import Link, LinkClosedError
from cmdiad_line.transport.messages import (
    Alive,
    Answer,
    Command,
    End,
    Message,
    Ready,
    Result,
    StationState,
    Trigger,
    Triggered,
)

ALIVE_S = 0.2
"""Seconds between two signs of life."""
STATE_S = 0.5
"""Shortest time in seconds between two states with the same phase and recipe."""
SILENT_S = 5.0
"""Seconds without a message of the supervisor after which the published phase is `not-ready`."""
_RETRY_S = 5.0  # Pause after the broker has refused a result.
_END_S = 0.5  # Longest wait for the end of the connection.

logger = logging.getLogger("cmdiad.line.mqtt")


def serve(link: Link, station: Station) -> None:
    """Serve the broker until the supervisor sends `End` or is gone."""
    with contextlib.suppress(LinkClosedError), contextlib.closing(_MqttProcess(link, station)) as process:
        process.run()


class _MqttProcess:
    """The loop between the broker, the outbox and the supervisor."""

    def __init__(self, link: Link, station: Station) -> None:
        settings = station.mqtt
        assert settings is not None
        self._name = station.name
        self._link = link
        self._dialect = _dialect(settings, station.name)
        self._outbox = Outbox(
            station.state, largest_count=settings.keep_messages, largest_bytes=settings.keep_megabytes << 20
        )
        self._connection = Connection(
            settings,
            client_id=settings.client_id or f"cmdiad-{_in_topic(station.name)}",
            will=self._dialect.will,
            subscriptions=self._dialect.subscriptions,
        )
        self._connected = False
        self._ended = False
        self._cause = ""  # Last reported cause of a lost connection.
        self._in_flight: dict[int, int] = {}  # Number in the outbox by number of the publication.
        self._sent = 0  # Number in the outbox of the last message that was sent.
        self._waited = 0  # Number in the outbox of the last message that is older than the connection.
        self._pause_until = 0.0
        self._state: StationState | None = None
        self._heard_at = time.monotonic()
        self._shown: tuple[object, ...] = ()  # Content of the last state on this connection; () before the first.
        self._state_at = 0.0
        self._token = 0
        self._requests: dict[int, str] = {}  # Id of the request by token.

    def run(self) -> None:
        """Serve until the end."""
        self._link.send(Ready())
        alive_at = 0.0
        while not self._ended:
            now = time.monotonic()
            if now >= alive_at:
                self._link.send(Alive())
                alive_at = now + ALIVE_S
            self._send_state(now)
            self._send_results(now)
            select.select([self._link.fileno(), self._connection.fileno()], [], [], ALIVE_S)
            for event in self._connection.events():
                self._handle(event)
            for message in self._link.receive():
                self._take(message)

    def close(self) -> None:
        """End the connection if there is one, and close the outbox."""
        if self._connected:
            self._connection.end()
            end = time.monotonic() + _END_S
            while self._connected and time.monotonic() < end:
                select.select([self._connection.fileno()], [], [], 0.05)
                for event in self._connection.events():
                    self._handle(event)
        self._outbox.close()

    # --- from the supervisor -----------------------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        self._heard_at = time.monotonic()
        if isinstance(message, Result) and not message.replayed:
            self._outbox.add(result_payload(self._name, message))
        elif isinstance(message, StationState):
            self._state = message
        elif isinstance(message, Triggered):
            text = "accepted" if message.accepted else "refused: the result is NG"
            self._answer(message.token, done=message.accepted, message=text, acquisition_id=message.acquisition_id)
        elif isinstance(message, Answer):
            self._answer(message.token, done=message.done, message=message.message)
        elif isinstance(message, End):
            self._ended = True

    def _answer(self, token: int, *, done: bool, message: str, acquisition_id: int = 0) -> None:
        request = self._requests.pop(token, "")
        self._publish_answer(request, done=done, message=message, acquisition_id=acquisition_id)

    def _publish_answer(self, request: str, *, done: bool, message: str, acquisition_id: int = 0) -> None:
        answer = self._dialect.answer(request, done=done, message=message, acquisition_id=acquisition_id)
        if self._connected and answer is not None:
            self._connection.publish(answer)

    # --- from the broker ---------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if isinstance(event, Connected):
            self._begin(event.attempt)
        elif isinstance(event, Disconnected):
            self._connected = False
            if event.cause != self._cause and not self._ended:
                logger.warning("%s; results wait in the meantime", event.cause)
            self._cause = event.cause
        elif isinstance(event, Confirmed):
            self._confirm(event)
        elif isinstance(event, Received):
            self._request(event)

    def _begin(self, attempt: int) -> None:
        """Start with a new connection: first the state, then the results that wait."""
        self._connected, self._shown, self._cause = True, (), ""
        self._waited = self._outbox.newest()
        if not self._dialect.resends:
            self._in_flight.clear()
            self._sent = 0
        self._dialect.begin(attempt)
        logger.info("connected to the broker")

    def _confirm(self, event: Confirmed) -> None:
        """Remove a confirmed result. A refused one is sent again later, with all that follow."""
        number = self._in_flight.pop(event.publication, None)
        if number is None:
            return
        if event.refusal:
            logger.warning("the broker refuses a result: %s; it is sent again later", event.refusal)
            self._sent = min(self._sent, number - 1)
            self._pause_until = time.monotonic() + _RETRY_S
        else:
            self._outbox.remove(number)

    def _request(self, event: Received) -> None:
        try:
            request = self._dialect.request(event.topic, event.payload)
        except RequestError as error:
            self._publish_answer("", done=False, message=str(error))
            return
        if isinstance(request, StateRequest):
            self._shown = ()
        elif request is not None:
            self._forward(request)

    def _forward(self, request: Request) -> None:
        """Send a trigger or a command to the supervisor."""
        self._token += 1
        self._requests[self._token] = request.request
        if request.name:
            arguments = {"recipe_id": request.recipe_id} if request.recipe_id else {}
            self._link.send(Command(token=self._token, name=request.name, user="mqtt", arguments=arguments))
        else:
            self._link.send(
                Trigger(
                    token=self._token, part_id=request.part_id, meas_id=request.meas_id, sent_ns=time.monotonic_ns()
                )
            )

    # --- to the broker -----------------------------------------------------------------------------------------------

    def _send_results(self, now: float) -> None:
        """Send the next results, oldest first."""
        free = IN_FLIGHT - len(self._in_flight)
        if not self._connected or not self._shown or free <= 0 or now < self._pause_until:
            return
        for number, payload in self._outbox.after(self._sent, free):
            self._sent = number
            if number not in self._in_flight.values():
                publication = self._dialect.result(payload, waited=number <= self._waited)
                self._in_flight[self._connection.publish(publication)] = number

    def _send_state(self, now: float) -> None:
        """Publish the state if it has changed; small changes only from time to time."""
        if not self._connected or self._state is None:
            return
        state, waiting, dropped = self._state, self._outbox.count, self._outbox.dropped
        if now - self._heard_at > SILENT_S:
            message = "The supervisor of the station is silent."
            state = replace(state, phase="not-ready", reason="not-ready", message=message, accepts=False)
        shown = (state.phase, state.reason, state.recipe_id, state, waiting, dropped)
        important = shown[:3] != self._shown[:3]
        if important or (shown != self._shown and now >= self._state_at + STATE_S):
            self._connection.publish(self._dialect.state(state, waiting=waiting, dropped=dropped))
            self._shown, self._state_at = shown, now


def _dialect(settings: Mqtt, station: str) -> Dialect:
    """Return the form of the messages that the station file names."""
    name = _in_topic(station)
    if settings.format == "sparkplug":
        return EdgeNode(settings.group, name)
    return JsonTopics(station, settings.topic or f"cmdiad/{name}", accept_triggers=settings.accept_triggers)


def _in_topic(station: str) -> str:
    """Return the name of the station as it appears in topics and ids."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", station)
