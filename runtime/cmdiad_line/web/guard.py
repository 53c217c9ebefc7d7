"""An ASGI wrapper that checks every request before the application, and adds security headers to every answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_FORM = 64 * 1024
"""Largest body in bytes of any request except an upload."""
BODY_S = 30.0
"""Longest time in seconds for the body of a request."""
BODY_END = "cmdiad.body_end"
"""Key of the scope for the last bytes of the body, which show if a form is complete."""
_NOTED = 100

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every answer; an answer with its own Cache-Control keeps it."""


class Guard:
    """ASGI application that refuses unknown host names and large bodies, and adds the security headers.

    Args:
        application: Application behind the guard.
        hosts: Names and addresses by which the station may be called, without ports. This keeps a foreign web site
            from reaching a station on loopback through its own host name (DNS rebinding).
        upload_path: Path that accepts large bodies.
        largest_upload: Largest body of that path in bytes.
    """

    def __init__(
        self, application: Application, *, hosts: frozenset[str], upload_path: str, largest_upload: int
    ) -> None:
        self._application = application
        self._hosts = hosts
        self._upload_path = upload_path
        self._largest_upload = largest_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        limit = self._largest_upload if scope["path"] == self._upload_path else LARGEST_FORM
        refusal = self._refusal(headers, limit)
        if refusal is not None:
            await _answer(with_headers(send), *refusal)
            return
        await self._application(scope, _bounded(receive, limit, scope), with_headers(send))

    def _refusal(self, headers: dict[str, str], limit: int) -> tuple[int, str] | None:
        """Return status and text of a refusal, or None."""
        if host_name(headers.get("host", "")) not in self._hosts:
            return 421, "This station has another name. Add the name to the key hosts of the section [web]."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return 413, f"The request is too large. Send at most {limit} bytes."
        return None


def in_address(host: str) -> str:
    """Return a name or an IP address as it appears in the address of a page: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def host_name(host: str) -> str:
    """Return a Host header without its port, in lower case."""
    name, _, port = host.rpartition(":")
    return (name if port.isdecimal() and name and not name.endswith(":") else host).lower()


def with_headers(send: Send) -> Send:
    """Return a function that sends an answer with the security headers."""

    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            extra = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
            message["headers"] = [*message["headers"], *((name, text) for name, text in extra if name not in present)]
        await send(message)

    return send_with_headers


def _bounded(receive: Receive, limit: int, scope: Scope) -> Receive:
    """Return a function that receives a body up to a limit and for `BODY_S`, then reports a disconnection.

    The last bytes of the body are noted in the scope, see `BODY_END`.
    """
    received, complete, end = 0, False, asyncio.get_running_loop().time() + BODY_S

    async def receive_bounded() -> MutableMapping[str, Any]:
        nonlocal received, complete
        if complete:  # What follows is the end of the connection, which may take hours.
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), end - asyncio.get_running_loop().time())
        except asyncio.TimeoutError:
            return {"type": "http.disconnect"}
        body, complete = message.get("body", b""), not message.get("more_body", False)
        received += len(body)
        scope[BODY_END] = (scope.get(BODY_END, b"") + body)[-_NOTED:]
        return {"type": "http.disconnect"} if received > limit else message

    return receive_bounded


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": text}).encode()})
