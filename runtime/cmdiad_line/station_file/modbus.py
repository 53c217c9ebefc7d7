"""Section `[modbus]`: the Modbus TCP server for the PLC."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_line.station_file.servers import LOOPBACK, require_server
from cmdiad_runtime.support.records import require_integer


@dataclass(frozen=True, kw_only=True)
class Modbus:
    """The keys of the section `[modbus]`.

    Attributes:
        address: Address to bind to.
        port: Port to bind to, or 0 for a free one.
        clients: IP addresses that may connect; required for another address than loopback, because Modbus has no
            password.
        results: Largest number of results that wait for an acknowledgement, with parts in work. With 1, a trigger also
            takes back the result of the part before.
        ok_hold_ms: Longest time in milliseconds for which the OK bit is true for one result; 0 for no limit.
        silent_ms: Milliseconds without a message of the supervisor after which every bit but `error` is false.
        heartbeat_ms: Milliseconds between two changes of the heartbeat bit.
    """

    address: str = LOOPBACK
    port: int = 5020
    clients: tuple[str, ...] = ()
    results: int = 8
    ok_hold_ms: int = 0
    silent_ms: int = 2000
    heartbeat_ms: int = 500

    def __post_init__(self) -> None:
        require_server(self)
        require_integer(self, "results", 1, 8)
        require_integer(self, "ok_hold_ms", 0, 600_000)
        require_integer(self, "silent_ms", 1000, 60_000)
        require_integer(self, "heartbeat_ms", 50, 10_000)

    def missing_protection(self) -> str:
        """Return the key that must be set before other machines may connect, or ""."""
        return "" if self.clients else "clients, the IP addresses that may connect"
