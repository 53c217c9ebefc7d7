"""Section `[mqtt]`: the connection to an MQTT broker."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_runtime.support.records import require_integer, require_name


@dataclass(frozen=True, kw_only=True)
class Mqtt:
    """The keys of the section `[mqtt]`.

    Attributes:
        host: Name or address of the broker.
        port: Port of the broker.
    """

    host: str = "127.0.0.1"
    port: int = 1883

    def __post_init__(self) -> None:
        require_name(self, "host")
        require_integer(self, "port", 1, 65535)
