"""Work in small pieces, which a helper thread and the caller share until all are done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from types import TracebackType
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Once(Generic[_T]):
    """A function without arguments that is called at most once, by whichever thread first needs what it gives."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._lock = Lock()
        self._made: list[_T] = []

    def __call__(self) -> _T:
        """What the function gave; waits while another thread is in it. If it raises, the next call tries again."""
        with self._lock:
            if not self._made:
                self._made.append(self._work())
            return self._made[0]


@dataclass(frozen=True)
class Piece(Generic[_T]):
    """A piece of work that the helper has been offered.

    Attributes:
        work: what is to be done. It waits for no other piece.
        future: of the helper's doing it.
    """

    work: Callable[[], _T]
    future: Future[_T]

    def result(self) -> _T:
        """What the work gives: the caller does it here and now unless the helper has begun it. Ask once."""
        return self.work() if self.future.cancel() else self.future.result()


class Pieces:
    """The pieces of one caller; when the block ends, however it ends, the helper is at work on none of them.

    The helper is one thread for the whole process, which takes pieces in the order in which they are offered. A caller
    whom it does not help, because it is busy or because there is one core and no helper, does all of them itself.
    """

    def __init__(self) -> None:
        self._offered: list[Piece[Any]] = []

    def offer(self, work: Callable[[], _T]) -> Piece[_T]:
        """Let the helper do this as soon as it can."""
        piece = Piece(work, _submitted(work))
        self._offered.append(piece)
        return piece

    def postpone(self, piece: Piece[_T]) -> Piece[_T]:
        """Offer a piece again, behind all others, unless the helper has begun it."""
        return self.offer(piece.work) if piece.future.cancel() else piece

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        wait([piece.future for piece in self._offered if not piece.future.cancel()])


def share(works: Iterable[Callable[[], Any]]) -> None:
    """Do pieces of work that do not need each other: the helper from the first one on, the caller from the last."""
    with Pieces() as pieces:
        for piece in reversed([pieces.offer(work) for work in works]):
            piece.result()


def parts(count: int, at_once: int) -> list[slice]:
    """Slices of at most `at_once` that make up `count`."""
    return [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]


def _submitted(work: Callable[[], _T]) -> Future[_T]:
    """The future of a piece of work, which never begins by itself where there is no helper."""
    helper = _helper()
    try:
        return Future() if helper is None else helper.submit(work)
    except RuntimeError:  # the interpreter is ending and starts nothing any more
        return Future()


@lru_cache(maxsize=1)
def _helper() -> ThreadPoolExecutor | None:
    """The helper, whose thread starts with its first piece; None where this process has one core."""
    return ThreadPoolExecutor(1, thread_name_prefix="cmdiad-helper") if len(os.sched_getaffinity(0)) > 1 else None


os.register_at_fork(after_in_child=_helper.cache_clear)  # threads do not live on in a forked process
