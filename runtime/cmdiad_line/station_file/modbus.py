"""Section `[modbus]`: the Modbus TCP server for the PLC."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_line.station_file.servers import LOOPBACK, require_server


@dataclass(frozen=True, kw_only=True)
class Modbus:
    """The keys of the section `[modbus]`.

    Attributes:
        address: Address to bind to.
        port: Port to bind to, or 0 for a free one.
        clients: IP addresses that may connect; required for another address than loopback, because Modbus knows no
            password.
    """

    address: str = LOOPBACK
    port: int = 5020
    clients: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_server(self)

    def missing_protection(self) -> str:
        """Return the key that must be set before other machines may connect, or ""."""
        return "" if self.clients else "clients, the IP addresses that may connect"
