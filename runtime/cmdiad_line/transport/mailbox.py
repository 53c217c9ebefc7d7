"""Queue from a thread to the loop of its process, with a descriptor to wait for."""

from __future__ import annotations

import queue
import socket
from contextlib import suppress
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Mailbox(Generic[_Item]):
    """Items from threads to one loop. `fileno` becomes readable when an item has arrived."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._here, self._there = socket.socketpair()
        for end in (self._here, self._there):
            end.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._here.fileno()

    def put(self, item: _Item) -> None:
        """Add an item. Any thread may call this, also after `close`."""
        self._items.put(item)
        with suppress(OSError):  # A full socket is readable already, and after `close` nobody waits.
            self._there.send(b"1")

    def take(self) -> list[_Item]:
        """Return the items that have arrived, oldest first."""
        with suppress(BlockingIOError):
            self._here.recv(4096)
        items = []
        while not self._items.empty():
            items.append(self._items.get())
        return items

    def close(self) -> None:
        """Close the descriptors."""
        self._here.close()
        self._there.close()
