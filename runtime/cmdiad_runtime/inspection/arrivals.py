"""Sources that arrive while others are inspected: a list on standard input, files in a watched folder.

A thread waits for the next source, so that results never wait for it. The number of sources that wait for their
inspection is limited, whatever the length of the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Generic, TypeVar

from cmdiad_runtime.support.signals import check_signals

Item = TypeVar("Item")

MOST_WAITING = 64
"""Largest number of sources that have arrived and wait for their inspection."""
_CHECK_S = 0.2
"""Longest time until a signal, or the end of the consumer, is noticed."""


@dataclass(frozen=True)
class _End:
    """End of the sources, with the error that ended them, if any."""

    error: BaseException | None = None


class Arrivals(Iterator[Item], Generic[Item]):
    """Iterator over items that another thread waits for.

    Args:
        items: Items, whose iterator may block. The iteration runs in a separate thread.

    Raises:
        Exception: `next` raises the error that ended the iteration of the items.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._queue: Queue[Item | _End] = Queue(MOST_WAITING)
        self._head: Item | _End | None = None
        self._closed = Event()
        Thread(target=self._receive, args=(items,), name="cmdiad-arrivals", daemon=True).start()

    @property
    def is_ready(self) -> bool:
        """Return True if `next` returns an item without waiting."""
        if self._head is None:
            with suppress(Empty):
                self._head = self._queue.get_nowait()
        return self._head is not None and not isinstance(self._head, _End)

    def __next__(self) -> Item:
        item = self._wait()
        if not isinstance(item, _End):
            self._head = None
            return item
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Accept no further item. Does not wait for the thread, which may be reading from a drive that is away."""
        self._closed.set()
        self._head = _End()

    def __enter__(self) -> Arrivals[Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self) -> Item | _End:
        while self._head is None:
            check_signals()
            with suppress(Empty):
                self._head = self._queue.get(timeout=_CHECK_S)
        return self._head

    def _receive(self, items: Iterable[Item]) -> None:
        end = _End()
        try:
            for item in items:
                if not self._put(item):
                    return
        except BaseException as error:
            end = _End(error)
        self._put(end)

    def _put(self, item: Item | _End) -> bool:
        """Put an item into the queue; return False if the consumer has closed it."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_CHECK_S)
            except Full:
                continue
            return True
        return False
