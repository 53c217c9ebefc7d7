"""One HTTP connection with a deadline: answers that dribble, end early or have no length, and names without address."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from cmdiad_runtime.engines._http_connection import HttpConnection
from cmdiad_runtime.engines._server_client import Deadline
from patience import LIMIT_S, refusing_port, wait_until

SHORT_S = 0.3
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Part: 7\r\n\r\nyes"


def request_came(connection: socket.socket) -> bool:
    """Read one request, however many pieces it comes in; return False if the connection ended."""
    received = b""
    while not (head := re.search(rb"\r\n\r\n", received)):
        if not (piece := connection.recv(1 << 16)):
            return False
        received += piece
    length = re.search(rb"(?i)content-length: (\d+)", received[: head.end()])
    missing = head.end() + (int(length[1]) if length else 0) - len(received)
    while missing > 0:
        if not (piece := connection.recv(missing)):
            return False
        missing -= len(piece)
    return True


@contextmanager
def answering(*pieces: bytes | float | threading.Event) -> Iterator[int]:
    """A server that waits for a request, then sends pieces, waits seconds or for an event, and stays connected."""
    ended = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            while request_came(connection):
                for piece in pieces:
                    if isinstance(piece, float):
                        ended.wait(piece)
                    elif isinstance(piece, threading.Event):
                        piece.wait(LIMIT_S)
                    else:
                        connection.sendall(piece)
                if pieces[-1] == b"":
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        ended.set()


@contextmanager
def connected(port: int) -> Iterator[HttpConnection]:
    with closing(HttpConnection("127.0.0.1", port, None, Deadline(LIMIT_S))) as connection:
        yield connection


def test_an_answer_has_status_headers_and_content() -> None:
    with answering(WHOLE) as port, connected(port) as connection:
        for _ in range(2):
            answer = connection.request("POST", "/v2", Deadline(LIMIT_S), b"x" * 100_000, {"X-One": "1"})
            assert (answer.status, answer.headers["x-part"], answer.body) == (200, "7", b"yes")
            assert not connection.lost


@pytest.mark.parametrize("place", [0, 10, len(WHOLE) - 4])
def test_the_deadline_limits_the_whole_answer(place: int) -> None:
    """Each piece comes in time; a limit for each read would never end."""
    dribble = [piece for byte in WHOLE[place:] for piece in (bytes([byte]), 0.2)]
    with answering(WHOLE[:place] or 0.01, *dribble) as port, connected(port) as connection:
        began = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            connection.request("GET", "/v2", Deadline(SHORT_S))
        assert SHORT_S <= time.monotonic() - began < LIMIT_S


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE[:-1],  # shorter than stated
        b"HTTP/1.1 200 OK\r\n\r\nyes",  # without a length
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nyes",
        b"yes\r\n\r\n",
        b"\x00\xff" * 70_000,
        b"",
    ],
)
def test_an_answer_that_is_not_complete_is_an_error(answer: bytes) -> None:
    pieces = (answer, b"") if answer else (b"",)
    with answering(*pieces) as port, connected(port) as connection, pytest.raises(OSError):
        connection.request("GET", "/v2", Deadline(LIMIT_S))


def test_a_connection_is_never_opened_again() -> None:
    last = WHOLE.replace(b"X-Part: 7", b"Connection: close")
    with answering(last) as port, connected(port) as connection:
        assert connection.request("GET", "/v2", Deadline(LIMIT_S)).body == b"yes"
        assert connection.lost
        with pytest.raises(OSError, match="NotConnected"):
            connection.request("GET", "/v2", Deadline(LIMIT_S))


def test_a_connection_with_an_answer_to_no_request_is_lost() -> None:
    read = threading.Event()
    with answering(WHOLE, read, WHOLE) as port, connected(port) as connection:
        connection.request("GET", "/v2", Deadline(LIMIT_S))
        read.set()
        wait_until(lambda: connection.lost)


def test_a_name_is_resolved_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(LIMIT_S))
    with pytest.raises(TimeoutError, match="not resolved in time"):
        HttpConnection("inference.plant", 80, None, Deadline(SHORT_S))
    released.set()


def test_a_name_without_address_is_an_error() -> None:
    with pytest.raises(OSError):
        HttpConnection("a" * 70, 80, None, Deadline(LIMIT_S))


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(WHOLE) as port, refusing_port() as dead:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        addresses = [(*kind, ("127.0.0.1", dead)), (*kind, ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with closing(HttpConnection("inference.plant", port, None, Deadline(LIMIT_S))) as connection:
            assert connection.request("GET", "/v2", Deadline(LIMIT_S)).status == 200
