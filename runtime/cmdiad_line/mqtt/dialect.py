"""Protocol of the form of all messages to and from a broker: plain JSON or Sparkplug B."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cmdiad_line.mqtt.payloads import Request
from cmdiad_line.transport.messages import StationState


@dataclass(frozen=True)
class Publication:
    """A message for the broker.

    Attributes:
        topic: Topic.
        payload: Payload.
        qos: Quality of service, 0 or 1.
        retain: True if the broker keeps the message for new subscribers.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True)
class StateRequest:
    """A host requests the state of the station again."""


class Dialect(Protocol):
    """The form of all messages between a station and a broker.

    Attributes:
        subscriptions: Topics to receive.
        resends: True if the client sends unconfirmed results again after a lost connection (QoS 1); False if results
            that were not sent are lost with the connection (QoS 0), so that the process has to send them again.
    """

    subscriptions: tuple[str, ...]
    resends: bool

    def will(self, attempt: int) -> Publication:
        """Return the last will of one attempt to connect. Called by the thread of the client."""

    def begin(self, attempt: int) -> None:
        """Start with a new connection. The next message is a state."""

    def state(self, state: StationState, *, waiting: int, dropped: int) -> Publication:
        """Return the state of the station as a message.

        Args:
            state: State.
            waiting: Number of results that the broker has not confirmed.
            dropped: Number of results that were dropped, because the broker was away for too long.
        """

    def result(self, stored: bytes, *, waited: bool) -> Publication:
        """Return a result as a message.

        Args:
            stored: Payload of `payloads.result_payload`.
            waited: True if the result is older than the connection.
        """

    def answer(self, request: str, *, done: bool, message: str, acquisition_id: int) -> Publication | None:
        """Return the answer to a request as a message, or None if this form has no answers."""

    def request(self, topic: str, payload: bytes) -> Request | StateRequest | None:
        """Return a request from the broker, or None if there is nothing to do.

        Raises:
            RequestError: The payload has another form.
        """
