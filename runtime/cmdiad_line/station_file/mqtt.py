"""Section `[mqtt]`: the connection to an MQTT broker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cmdiad_runtime.support.records import require, require_integer, require_line, require_name
from cmdiad_runtime.support.toml_file.values import ExistingFile

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LEVEL = re.compile(r"[^\s/+#\x00]{1,64}")
_TOPIC = re.compile(r"[^\s/+#$\x00][^\s+#\x00]*")


@dataclass(frozen=True, kw_only=True)
class Mqtt:
    """The keys of the section `[mqtt]`.

    Attributes:
        host: Name or address of the broker.
        port: Port of the broker, usually 8883 with TLS.
        format: Form of the messages: "json", or "sparkplug" for Sparkplug B.
        group: Group of the station with Sparkplug B.
        topic: First levels of all topics; "" for `cmdiad/` and the name of the station.
        client_id: Id of the client, unique at the broker; "" for `cmdiad-` and the name of the station.
        tls: True to encrypt the connection and to check the broker's certificate.
        ca_file: Certificates of the authorities that the broker's certificate must come from; None for the system's.
        certificate: Certificate that proves the station to the broker, or None.
        key: Private key of `certificate`.
        user: User name, or "".
        password_file: File with the password of the user.
        unencrypted: True to allow a connection without TLS to another machine.
        keepalive_s: Seconds without a packet after which a connection counts as lost.
        keep_messages: Largest number of results that are kept while the broker is away.
        keep_megabytes: Largest size of the results that are kept, in megabytes.
        accept_triggers: True to accept triggers and commands from the broker.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    format: Literal["json", "sparkplug"] = "json"
    group: str = "cmdiad"
    topic: str = ""
    client_id: str = ""
    tls: bool = False
    ca_file: ExistingFile | None = None
    certificate: ExistingFile | None = None
    key: ExistingFile | None = None
    user: str = ""
    password_file: ExistingFile | None = None
    unencrypted: bool = False
    keepalive_s: int = 15
    keep_messages: int = 100_000
    keep_megabytes: int = 100
    accept_triggers: bool = False

    def __post_init__(self) -> None:
        require_name(self, "host")
        require_integer(self, "port", 1, 65535)
        topic = not self.topic or (_TOPIC.fullmatch(self.topic) is not None and not self.topic.endswith("/"))
        require(topic and len(self.topic) <= 200, self, "topic", "levels with / between them, without spaces, + and #")
        require(
            _LEVEL.fullmatch(self.group) is not None, self, "group", "one level of a topic, without spaces, /, + and #"
        )
        json_only = self.format == "json"
        require(json_only or not self.topic, self, "topic", "no topic with Sparkplug B, which prescribes its topics")
        triggers = json_only or not self.accept_triggers
        require(triggers, self, "accept_triggers", "false with Sparkplug B, which has no triggers and commands here")
        require_line(self, "client_id", longest=64)
        require_line(self, "user", longest=200)
        files = self.ca_file or self.certificate or self.key
        require(self.tls or not files, self, "tls", "true, because ca_file, certificate or key is set")
        pair = (self.certificate is None) == (self.key is None)
        require(pair, self, "key", "certificate and key, or neither")
        known = (self.password_file is None) or bool(self.user)
        require(known, self, "user", "a user name for password_file")
        safe = self.tls or self.unencrypted or self.host in _LOOPBACK
        require(safe, self, "tls", "true for a broker on another machine, or unencrypted = true to go without")
        require_integer(self, "keepalive_s", 2, 3600)
        require_integer(self, "keep_messages", 1, 10_000_000)
        require_integer(self, "keep_megabytes", 1, 100_000)
