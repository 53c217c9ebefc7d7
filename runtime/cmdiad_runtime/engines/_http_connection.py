"""`HttpConnection`: requests over exactly one connection, each with a deadline as a whole.

The module `http.client` writes requests and reads answers. Alone it would open a lost connection again, unnoticed, and
limit the time of each read only. Therefore this module opens the socket, and limits every use of it.
"""

from __future__ import annotations

import http.client
import io
import queue
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from cmdiad_runtime.engines._server_client import Deadline

_LARGEST_ANSWER = 1 << 30
"""Bytes of the largest answer that is read."""


@dataclass(frozen=True)
class HttpAnswer:
    """Complete answer to a request.

    Attributes:
        status: Status code.
        headers: Headers; names are found in any case.
        body: Content.
    """

    status: int
    headers: Message
    body: bytes


class HttpConnection:
    """Connection to a server, which is never opened again. After an error, it must be closed.

    Args:
        host: Name or address of the server.
        port: Port of the server.
        tls: Settings of TLS; None for a connection without it.
        deadline: Moment by which the connection must be open.

    Raises:
        OSError: The server cannot be reached, or its certificate is wrong.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, deadline: Deadline) -> None:
        self._socket = _TimedSocket(_connect(host, port, tls, deadline))
        self._http = http.client.HTTPConnection(host, port)
        self._http.auto_open = 0
        self._http.sock = self._socket

    def request(
        self, method: str, path: str, deadline: Deadline, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> HttpAnswer:
        """Send a request and return the answer.

        Args:
            method: For example "GET".
            path: Path on the server.
            deadline: Moment by which the answer must be complete.
            body: Content of the request.
            headers: Headers of the request.

        Raises:
            OSError: There was no complete answer.
        """
        self._socket.deadline = deadline
        try:
            self._http.request(method, path, body, headers)
            answer = self._http.getresponse()
            if answer.length is None or answer.length > _LARGEST_ANSWER:
                raise OSError(f"an answer of {answer.length} bytes")
            return HttpAnswer(answer.status, answer.headers, answer.read())
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__} {error}".strip()) from error

    @property
    def lost(self) -> bool:
        """Return True if the connection has ended, or contains bytes that no request has asked for."""
        return self._socket.ended or self._socket.readable()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._socket.socket.close()


class _TimedSocket:
    """A socket with a deadline, with the methods that `http.client` calls.

    Attributes:
        socket: The connected socket.
        deadline: Moment after which every use fails.
        ended: True after an answer that ends the connection.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.deadline = Deadline(0)
        self.ended = False

    def in_time(self) -> socket.socket:
        """Return the socket with the time that is left as its limit; TimeoutError after the deadline."""
        if self.deadline.passed:
            raise TimeoutError("timed out")
        self.socket.settimeout(self.deadline.remaining)
        return self.socket

    def sendall(self, content: bytes) -> None:
        """Send all bytes."""
        rest = memoryview(content)
        while rest:
            rest = rest[self.in_time().send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a file that reads from the socket."""
        return io.BufferedReader(_TimedReader(self), 1 << 16)

    def readable(self) -> bool:
        """Return True if a read would return at once: with bytes, with the end, or with an error."""
        try:
            self.socket.settimeout(0)
            self.socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Note that the server ends the connection. The last answer may still be read."""
        self.ended = True


class _TimedReader(io.RawIOBase):
    def __init__(self, source: _TimedSocket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.in_time().recv_into(buffer)


def _connect(host: str, port: int, tls: ssl.SSLContext | None, deadline: Deadline) -> socket.socket:
    """Return a socket that is connected to the first address of a host that answers; OSError if none does."""
    addresses = _resolve(host, port, deadline)
    problem = OSError("no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(deadline.remaining / (len(addresses) - number))
            connected.connect(address)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.settimeout(deadline.remaining)
            return connected if tls is None else tls.wrap_socket(connected, server_hostname=host)
        except OSError as error:
            connected.close()
            problem = error
    raise problem


def _resolve(host: str, port: int, deadline: Deadline) -> list[Any]:
    """Return the addresses of a host. Another thread asks for them, because the system has no time limit for that."""
    resolved: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            resolved.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            resolved.put(OSError(str(error)))

    threading.Thread(target=resolve, daemon=True, name="cmdiad-resolve").start()
    try:
        addresses = resolved.get(timeout=deadline.remaining)
    except queue.Empty:
        raise TimeoutError(f"the name {host} was not resolved in time") from None
    if isinstance(addresses, OSError):
        raise addresses
    return addresses
