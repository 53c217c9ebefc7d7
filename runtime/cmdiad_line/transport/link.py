"""Links between processes, which carry whole messages over local sockets and never block."""

from __future__ import annotations

import contextlib
import socket

from cmdiad_line.transport.codec import decode, encode
from cmdiad_line.transport.messages import Message

LARGEST_MESSAGE = 128 * 1024
"""Largest message in bytes. Frames do not travel by messages, so real messages have a few kilobytes."""
_BUFFER = 1 << 20


class LinkClosedError(ConnectionError):
    """The process at the other end has ended."""


class LinkFullError(BlockingIOError):
    """The process at the other end does not read its messages."""


class Link:
    """One end of a message channel between two processes. Not safe for several threads.

    Args:
        end: Connected local socket of type SOCK_SEQPACKET, which keeps the boundaries of messages.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        end.setblocking(False)
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER)

    def fileno(self) -> int:
        """Return the file descriptor, for `select` and event loops."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send a message. Never blocks.

        Raises:
            LinkClosedError: The other process has ended, or the message is larger than the buffer of the socket.
            LinkFullError: The other process does not read.
            MessageError: A number is not finite, or a value has no JSON form.
        """
        try:
            self._socket.send(encode(message))
        except BlockingIOError as error:
            raise LinkFullError(str(error)) from error
        except OSError as error:
            raise LinkClosedError(str(error)) from error

    def receive(self) -> list[Message]:
        """Return all messages that have arrived, oldest first; an empty list if there are none.

        Raises:
            LinkClosedError: The other process has ended and all its messages were returned before.
            MessageError: Something arrived that is no message.
        """
        messages: list[Message] = []
        while True:
            try:
                data = self._socket.recv(LARGEST_MESSAGE + 1)
            except BlockingIOError:
                return messages
            except OSError:  # The other process was killed: the same as an ordinary end.
                data = b""
            if data:
                messages.append(decode(data))
            elif messages:
                return messages
            else:
                raise LinkClosedError("the other process has ended")

    def close(self) -> None:
        """Close this end. Idempotent."""
        self._socket.close()


def link_pair() -> tuple[Link, socket.socket]:
    """Return the supervisor's end of a new channel, and the socket to pass to the other process."""
    if not hasattr(socket, "SOCK_SEQPACKET"):
        raise OSError("cmdiad-line needs local sockets that keep message boundaries: run it on Linux")
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Link(here), there


def link_from_descriptor(descriptor: int) -> Link:
    """Return the link of a process that was started with the descriptor of its socket."""
    return Link(socket.socket(fileno=descriptor))
