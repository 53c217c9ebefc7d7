"""Tell addresses of this machine from those of others."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return True if a host without port is this machine: `localhost`, or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
