"""Checks of the addresses of servers. An address that other machines reach needs protection."""

from __future__ import annotations

import ipaddress
from typing import Protocol, runtime_checkable

from cmdiad_runtime.support.records import require, require_integer, require_line

LOOPBACK = "127.0.0.1"
"""Address that only this machine reaches."""


@runtime_checkable
class ServerSection(Protocol):
    """A section of a station file that opens a port.

    Attributes:
        address: Address to bind to.
        port: Port to bind to, or 0 for a free one.
    """

    @property
    def address(self) -> str:
        """Return the address to bind to."""

    @property
    def port(self) -> int:
        """Return the port, or 0 for a free one."""

    def missing_protection(self) -> str:
        """Return what must be set before other machines may connect, or "" if nothing is missing."""


def require_server(record: object) -> None:
    """Raise RecordError unless `address` is an IP address and `port` a port number."""
    require_line(record, "address", longest=64)
    require(_address(record) is not None, record, "address", f"an IP address, for example {LOOPBACK} or 0.0.0.0")
    require_integer(record, "port", 0, 65535)


def is_loopback(address: str) -> bool:
    """Return True if only this machine reaches an address."""
    return ipaddress.ip_address(address).is_loopback


def _address(record: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(str(getattr(record, "address", "")))
    except ValueError:
        return None
