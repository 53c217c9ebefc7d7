"""Sharing of small pieces of work between the caller and one helper thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from types import TracebackType
from typing import Any, Generic, TypeVar

from cmdiad_runtime.support.system import call_after_fork, usable_cores

_T = TypeVar("_T")


class Once(Generic[_T]):
    """A lazy value, computed at most once, in the first thread that needs it.

    Args:
        work: Function that computes the value.
    """

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._lock = Lock()
        self._made: list[_T] = []

    def __call__(self) -> _T:
        """Return the value. Wait if another thread is computing it; if computing raises, the next call tries again."""
        with self._lock:
            if not self._made:
                self._made.append(self._work())
            return self._made[0]


@dataclass(frozen=True)
class Piece(Generic[_T]):
    """A piece of work that was offered to the helper thread.

    Attributes:
        work: Function that does the work. The function must not wait for another piece.
        future: Result of the helper thread.
    """

    work: Callable[[], _T]
    future: Future[_T]

    def result(self) -> _T:
        """Return the result.

        If the helper thread has not started this piece, run it in the calling thread. Call at most once.
        """
        return self.work() if self.future.cancel() else self.future.result()


class Pieces:
    """A context manager for the pieces of work of one caller.

    When the block ends, also by an exception, the helper thread works on none of these pieces. There is one helper
    thread for the whole process. The helper takes pieces in the order in which they are offered. If the helper is busy,
    or if the process has one core and therefore no helper, the caller does all the work.
    """

    def __init__(self) -> None:
        self._offered: list[Piece[Any]] = []

    def offer(self, work: Callable[[], _T]) -> Piece[_T]:
        """Offer work to the helper thread."""
        piece = Piece(work, _submitted(work))
        self._offered.append(piece)
        return piece

    def postpone(self, piece: Piece[_T]) -> Piece[_T]:
        """Offer a piece again, behind all others, unless the helper thread has started it."""
        return self.offer(piece.work) if piece.future.cancel() else piece

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        wait([piece.future for piece in self._offered if not piece.future.cancel()])


def share(works: Iterable[Callable[[], _T]]) -> list[_T]:
    """Run independent pieces of work: the helper thread from the first one on, the caller from the last one on.

    Return the results in the order of the pieces. If several fail, the error is that of the last of them.
    """
    with Pieces() as pieces:
        offered = [pieces.offer(work) for work in works]
        return [piece.result() for piece in reversed(offered)][::-1]


def parts(count: int, at_once: int) -> list[slice]:
    """Return slices of at most `at_once` elements that cover `count` elements."""
    return [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]


def _submitted(work: Callable[[], _T]) -> Future[_T]:
    """Return the future of a piece of work; without a helper thread, the future never starts by itself."""
    helper = _helper()
    try:
        return Future() if helper is None else helper.submit(work)
    except RuntimeError:  # the interpreter is shutting down and starts no more work
        return Future()


@lru_cache(maxsize=1)
def _helper() -> ThreadPoolExecutor | None:
    """Return the helper thread, which starts with its first piece, or None if this process has one core."""
    return ThreadPoolExecutor(1, thread_name_prefix="cmdiad-helper") if usable_cores() > 1 else None


call_after_fork(_helper.cache_clear)  # threads do not survive in a forked process
