"""Connection to an MQTT 5 broker, by paho-mqtt. A thread of paho-mqtt connects and puts events into a queue.

The queue has a file descriptor, so the process can wait for the broker and for the supervisor at the same time.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from cmdiad_line.mqtt.dialect import Publication
from cmdiad_line.station_file.mqtt import Mqtt
from cmdiad_line.transport.mailbox import Mailbox
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.printable import cause_of

IN_FLIGHT = 10
"""Largest number of results that are sent and not yet confirmed."""
_WITH_WILL = 4  # Reason code of DISCONNECT: publish the last will.


@dataclass(frozen=True)
class Connected:
    """The broker has accepted the connection.

    Attributes:
        attempt: Number of the attempt to connect, from 0.
    """

    attempt: int


@dataclass(frozen=True)
class Disconnected:
    """The connection is lost, or the broker refuses it.

    Attributes:
        cause: Reason as text.
    """

    cause: str


@dataclass(frozen=True)
class Confirmed:
    """The broker has answered a publication.

    Attributes:
        publication: Number that `publish` returned.
        refusal: Reason as text if the broker did not take the message, else "".
    """

    publication: int
    refusal: str


@dataclass(frozen=True)
class Received:
    """A message has arrived on a subscribed topic.

    Attributes:
        topic: Topic.
        payload: Payload.
    """

    topic: str
    payload: bytes


Event = Connected | Disconnected | Confirmed | Received


class Connection:
    """A connection to the broker that is opened again whenever it is lost.

    Args:
        settings: Section of the station file.
        client_id: Id of the client.
        will: Function of the number of the attempt to connect that returns what the broker publishes when this
            connection is lost. Called by another thread.
        subscriptions: Topics to receive.

    Raises:
        CmdiadError: A certificate, key or password cannot be read.
    """

    def __init__(
        self,
        settings: Mqtt,
        *,
        client_id: str,
        will: Callable[[int], Publication],
        subscriptions: tuple[str, ...],
    ) -> None:
        self._will = will
        self._subscriptions = subscriptions
        self._attempts = count()  # Used by paho's thread only, as the next two.
        self._attempt = 0
        self._accepted = False
        self._events: Mailbox[Event] = Mailbox()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
        client.max_inflight_messages_set(2 * IN_FLIGHT)
        client.reconnect_delay_set(1, 10)
        _protect(client, settings)
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        # A clean session: requests that came while the station was away must not trigger it later.
        client.connect_async(settings.host, settings.port, keepalive=settings.keepalive_s, clean_start=True)
        self._client = client
        client.loop_start()

    def fileno(self) -> int:
        """Return the file descriptor that is readable when `events` has something."""
        return self._events.fileno()

    def events(self) -> list[Event]:
        """Return all events since the last call, oldest first."""
        return self._events.take()

    def publish(self, publication: Publication) -> int:
        """Send a message without waiting, and return a number for `Confirmed`.

        With QoS 0, `Confirmed` means that the message has left this machine.
        """
        return self._client.publish(
            publication.topic, publication.payload, qos=publication.qos, retain=publication.retain
        ).mid

    def end(self) -> None:
        """Ask the broker to publish the last will and to close the connection; `Disconnected` follows."""
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=_WITH_WILL))

    # --- called by paho's thread -------------------------------------------------------------------------------------

    def _on_pre_connect(self, client: paho.Client, userdata: Any) -> None:
        self._attempt = next(self._attempts)
        will = self._will(self._attempt)
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain)

    def _on_connect(self, client: paho.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._events.put(Disconnected(f"the broker refuses the connection: {reason}"))
            return
        for topic in self._subscriptions:
            client.subscribe(topic, qos=1)
        self._accepted = True
        self._events.put(Connected(self._attempt))

    def _on_connect_fail(self, client: paho.Client, userdata: Any) -> None:
        error = sys.exc_info()[1]  # paho calls this while it handles the error.
        cause = f": {cause_of(error)}" if isinstance(error, Exception) else ""
        self._events.put(Disconnected(f"the broker cannot be reached{cause}"))

    def _on_disconnect(
        self, client: paho.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if self._accepted:  # A refused connection is reported by `_on_connect`.
            self._events.put(Disconnected(f"the connection is lost: {reason}"))
        self._accepted = False

    def _on_publish(self, client: paho.Client, userdata: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        self._events.put(Confirmed(mid, str(reason) if reason.is_failure else ""))

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if not message.retain:  # A retained request is an old one: its part is gone.
            self._events.put(Received(message.topic, bytes(message.payload)))


def _protect(client: paho.Client, settings: Mqtt) -> None:
    """Set TLS, client certificate, user and password."""
    if settings.tls:
        ca_file, certificate, key = (
            None if path is None else str(path) for path in (settings.ca_file, settings.certificate, settings.key)
        )
        try:
            client.tls_set(ca_file, certificate, key)
        except (OSError, ValueError, ssl.SSLError) as error:
            raise CmdiadError(
                "[mqtt]",
                found=f"certificates or a key that cannot be used ({cause_of(error)})",
                expected="PEM files, and a key that belongs to the certificate",
                action="correct ca_file, certificate and key",
            ) from error
    if settings.user:
        client.username_pw_set(settings.user, _password(settings))


def _password(settings: Mqtt) -> str | None:
    if settings.password_file is None:
        return None
    try:
        return settings.password_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CmdiadError(
            settings.password_file,
            found=f"no readable password ({cause_of(error)})",
            expected="a text file with the password",
            action="correct password_file or the rights of the file",
        ) from error
