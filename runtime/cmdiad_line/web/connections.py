"""HTTP connections that wait for a request for a limited time, and that make room for newer ones.

A connection that is open without a request costs a client nothing. Without these limits two hundred of them would block
the pages of a station.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

LARGEST_NUMBER = 200
"""Number of connections above which the one that has waited longest for a request is closed for a new one."""
REQUEST_S = 10.0
"""Longest time in seconds from the opening of a connection, or from the last answer, to the end of a header."""


class StationConnection(H11Protocol):
    """One HTTP connection of uvicorn's server, with both limits."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """True if no request is in work."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request, and make room if there are too many connections."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > LARGEST_NUMBER:
            self._make_room()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the waiting."""
        self._end_timer()
        super().connection_lost(exc)

    def close(self) -> None:
        """Close the connection at once."""
        self._end_timer()
        self.connections.discard(self)
        self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection that has waited longest; without one, `limit_concurrency` refuses further requests."""
        others = [other for other in self.connections if isinstance(other, StationConnection) and other is not self]
        waiting = [other for other in others if other.waits]
        if waiting:
            min(waiting, key=lambda other: other._since).close()

    def _wait(self) -> None:
        self._end_timer()
        self._since = self.loop.time()
        self._timer = self.loop.call_later(REQUEST_S, self._check)

    def _check(self) -> None:
        """Close the connection if it still waits. A request in work begins the waiting again at its end."""
        if self.waits:
            self.close()

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
