"""File work of the supervisor in a thread: the loop must answer triggers while a disk is slow."""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

Then = Callable[[Any, Exception | None], None]
"""Called in the loop with the result, or None and the error."""


class Background:
    """One thread that does one piece of work after another. `fileno` becomes readable when one is finished."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "supervisor-files")
        self._finished: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._here.fileno()

    def submit(self, work: Callable[[], Any], then: Then) -> None:
        """Do some work in the thread, and call `then` from `finish`."""
        self._pool.submit(self._do, work, then)

    def finish(self) -> None:
        """Call `then` of all work that is finished."""
        with suppress(BlockingIOError):
            self._here.recv(4096)
        while not self._finished.empty():
            self._finished.get()()

    def close(self) -> None:
        """Wait for the present work, and close the descriptors."""
        self._pool.shutdown(cancel_futures=True)
        self._here.close()
        self._there.close()

    def _do(self, work: Callable[[], Any], then: Then) -> None:
        try:
            result, error = work(), None
        except Exception as problem:  # The loop decides: it must not miss the end of the work.
            result, error = None, problem
        self._finished.put(lambda: then(result, error))
        with suppress(OSError):
            self._there.send(b"1")
