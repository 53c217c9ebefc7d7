"""Thread for the file work of the supervisor, so that the loop answers triggers while a disk is slow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cmdiad_line.transport.mailbox import Mailbox
from cmdiad_runtime.support.scheduling import take_normal_priority

Then = Callable[[Any, Exception | None], None]
"""Called in the loop with the result, or None and the error."""


class Background:
    """A thread that does one piece of work after another. `fileno` becomes readable when a piece is finished."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "supervisor-files", initializer=take_normal_priority)
        self._finished: Mailbox[Callable[[], None]] = Mailbox()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._finished.fileno()

    def submit(self, work: Callable[[], Any], then: Then) -> None:
        """Do some work in the thread, and call `then` from `finish`."""
        self._pool.submit(self._do, work, then)

    def finish(self) -> None:
        """Call `then` of all work that is finished."""
        for then in self._finished.take():
            then()

    def close(self) -> None:
        """Wait for the present work, and close the descriptors."""
        self._pool.shutdown(cancel_futures=True)
        self._finished.close()

    def _do(self, work: Callable[[], Any], then: Then) -> None:
        try:
            result, error = work(), None
        except Exception as problem:  # Every piece of work reaches `then`, which handles the error.
            result, error = None, problem
        self._finished.put(lambda: then(result, error))
