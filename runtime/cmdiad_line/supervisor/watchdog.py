"""Messages to systemd (`Type=notify`). Its watchdog is fed only while inferences succeed."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

DEFAULT_INTERVAL_NS = 40 * 10**9
"""Interval without systemd; idle probes come four times as often."""


def notify(text: str) -> None:
    """Send a line to systemd if it has started this process (`sd_notify`); otherwise do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
        end.setblocking(False)
        end.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


class Watchdog:
    """Decides when an idle probe is due and when systemd's watchdog is fed.

    Attributes:
        interval_ns: Longest time between two signs of life that systemd accepts.
        proof_ns: Time of the last inference with a result, or None.
    """

    def __init__(self) -> None:
        meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = os.environ.get("WATCHDOG_USEC", "") if meant else ""
        self.interval_ns = int(microseconds) * 1000 if microseconds.isdecimal() else DEFAULT_INTERVAL_NS
        self.proof_ns: int | None = None
        self._fed_ns = 0

    def prove(self, now_ns: int) -> None:
        """Note that the engine has just inspected a part or a golden sample."""
        self.proof_ns = now_ns

    def doubt(self) -> None:
        """Note that the engine must prove itself again: the inspection process has ended or failed a probe."""
        self.proof_ns = None

    def probe_due(self, now_ns: int) -> bool:
        """Return True if the engine should inspect a golden sample, because there was no part for a while."""
        return self.proof_ns is None or now_ns - self.proof_ns >= self.interval_ns // 4

    def feed(self, now_ns: int) -> None:
        """Feed the watchdog, if the last proof is younger than half of the interval."""
        proved = self.proof_ns is not None and now_ns - self.proof_ns <= self.interval_ns // 2
        if proved and now_ns - self._fed_ns >= self.interval_ns // 4:
            self._fed_ns = now_ns
            notify("WATCHDOG=1")
