"""The messages of a station as JSON, on the topics that docs/mqtt.md lists."""

from __future__ import annotations

from cmdiad_line.mqtt.dialect import Publication, StateRequest
from cmdiad_line.mqtt.payloads import Request, answer_payload, offline_payload, read_request, state_payload
from cmdiad_line.transport.messages import StationState


class JsonTopics:
    """Messages as JSON.

    Args:
        station: Name of the station.
        topic: First levels of all topics.
        accept_triggers: True to receive triggers and commands.

    Attributes:
        subscriptions: Topics to receive.
        resends: True, because results have QoS 1.
    """

    resends = True

    def __init__(self, station: str, topic: str, *, accept_triggers: bool) -> None:
        self._station = station
        self._topic = topic
        self.subscriptions: tuple[str, ...] = (f"{topic}/trigger", f"{topic}/command") if accept_triggers else ()

    def will(self, attempt: int) -> Publication:
        """Return the retained state of a station that is offline."""
        return Publication(f"{self._topic}/state", offline_payload(self._station), retain=True)

    def begin(self, attempt: int) -> None:
        """Start with a new connection, which needs nothing."""

    def state(self, state: StationState, *, waiting: int, dropped: int) -> Publication:
        """Return the state as a retained message."""
        payload = state_payload(self._station, state, waiting=waiting, dropped=dropped)
        return Publication(f"{self._topic}/state", payload, retain=True)

    def result(self, stored: bytes, *, waited: bool) -> Publication:
        """Return a result as it was stored."""
        return Publication(f"{self._topic}/results", stored)

    def answer(self, request: str, *, done: bool, message: str, acquisition_id: int) -> Publication | None:
        """Return the answer to a trigger or command."""
        payload = answer_payload(self._station, request, done=done, message=message, acquisition_id=acquisition_id)
        return Publication(f"{self._topic}/answers", payload)

    def request(self, topic: str, payload: bytes) -> Request | StateRequest | None:
        """Return a trigger or a command.

        Raises:
            RequestError: The payload has another form.
        """
        return read_request(payload, command=topic.endswith("/command"))
