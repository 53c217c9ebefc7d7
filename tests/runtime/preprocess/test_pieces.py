"""Pieces of work are done once each, by whoever comes first, and none is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from functools import partial

import pytest

from cmdiad_runtime.preprocess.work import pieces as module
from cmdiad_runtime.preprocess.work.pieces import Once, Pieces, parts, share
from patience import LIMIT_S


@pytest.fixture(autouse=True)
def helper(monkeypatch, request):
    """A helper of the test's own, as on two cores."""
    own = module.ThreadPoolExecutor(1, thread_name_prefix="test-helper")
    monkeypatch.setattr(module, "_helper", lambda: own)
    yield own
    own.shutdown()


@pytest.fixture
def busy(helper):
    """The helper is at other work until the event is set."""
    begun, end = threading.Event(), threading.Event()
    helper.submit(lambda: (begun.set(), end.wait(LIMIT_S)))
    assert begun.wait(LIMIT_S)
    yield end
    end.set()


def where():
    return threading.current_thread().name


def begun(piece):
    """Whether the helper takes the piece within the time allowed."""
    until = time.monotonic() + LIMIT_S
    while not (piece.future.running() or piece.future.done()) and time.monotonic() < until:
        time.sleep(0.001)
    return piece.future.running() or piece.future.done()


def test_an_idle_helper_does_it():
    with Pieces() as pieces:
        piece = pieces.offer(where)
        assert begun(piece)
        assert piece.result().startswith("test-helper")


def test_the_caller_does_what_the_helper_has_not_begun(busy):
    with Pieces() as pieces:
        assert pieces.offer(where).result() == where()


def test_each_piece_is_done_once():
    done = []
    with Pieces() as pieces:
        offered = [pieces.offer(partial(done.append, number)) for number in range(200)]
        offered = [pieces.postpone(piece) for piece in offered]
        for piece in reversed(offered):
            piece.result()
    assert sorted(done) == list(range(200))


def test_shared_work_is_done_once_by_both_ends(busy):
    done = []

    def work(number):
        done.append(number)
        if number == 5:  # the caller is half through
            busy.set()
            assert helped.wait(LIMIT_S)
        if number == 0:
            helped.set()
        return number

    helped = threading.Event()
    assert share(partial(work, number) for number in range(10)) == list(range(10))
    assert done[:5] == [9, 8, 7, 6, 5]
    assert sorted(done) == list(range(10))


def test_the_error_of_shared_work_is_that_of_the_last_piece_that_fails(busy):
    def fail(number):
        raise KeyError(number)

    with pytest.raises(KeyError, match="1"):
        share([partial(fail, 0), partial(fail, 1), int])


def test_parts():
    assert parts(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert parts(0, 3) == []


def test_postponed_pieces_come_behind_the_others(busy):
    done = []
    with Pieces() as pieces:
        first = pieces.offer(partial(done.append, "first"))
        second = pieces.offer(partial(done.append, "second"))
        first = pieces.postpone(first)
        busy.set()
        assert begun(second)
        assert begun(first)
        first.result()
    assert done == ["second", "first"]


def test_a_piece_that_has_begun_is_not_postponed():
    with Pieces() as pieces:
        piece = pieces.offer(where)
        assert begun(piece)
        assert pieces.postpone(piece) is piece


def test_what_a_piece_raises_comes_to_the_caller(busy):
    def fail():
        raise KeyError("a")

    with Pieces() as pieces:
        here, there = pieces.offer(fail), pieces.offer(fail)
        with pytest.raises(KeyError):
            here.result()
        busy.set()
        assert begun(there)
        with pytest.raises(KeyError):
            there.result()


def test_the_helper_is_at_none_of_them_after_an_error():
    started, end, done = threading.Event(), threading.Event(), []

    def slow():
        started.set()
        end.wait(LIMIT_S)
        done.append("slow")

    with pytest.raises(ZeroDivisionError), Pieces() as pieces:
        pieces.offer(slow)
        never = pieces.offer(partial(done.append, "never"))
        assert started.wait(LIMIT_S)
        threading.Timer(0.05, end.set).start()
        raise ZeroDivisionError
    assert done == ["slow"]
    assert never.future.cancelled()


def test_without_a_helper_the_caller_does_all(monkeypatch):
    monkeypatch.setattr(module, "_helper", lambda: None)
    with Pieces() as pieces:
        piece = pieces.offer(where)
        assert pieces.postpone(piece).result() == where()
        assert isinstance(pieces.offer(where).future, Future)


def test_a_helper_that_takes_nothing_any_more(helper):
    helper.shutdown()
    with Pieces() as pieces:
        assert pieces.offer(where).result() == where()


@pytest.mark.parametrize(("cores", "threads"), [({0}, 0), ({0, 1}, 1)])
def test_one_thread_at_most_and_none_on_one_core(monkeypatch, cores, threads):
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    module._helper.cache_clear()
    before = set(threading.enumerate())  # a helper of earlier tests among them, which may end meanwhile
    try:
        for _ in range(3):
            with Pieces() as pieces:
                assert pieces.offer(lambda: 5).result() == 5
        assert len(set(threading.enumerate()) - before) == threads
    finally:
        if module._helper() is not None:
            module._helper().shutdown()
        module._helper.cache_clear()


def test_once_is_once():
    calls, both = [], threading.Barrier(2)

    def work():
        calls.append(where())
        time.sleep(0.02)
        return len(calls)

    once = Once(work)
    found = []
    threads = [threading.Thread(target=lambda: (both.wait(LIMIT_S), found.append(once()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1, 1]
    assert once() == 1


def test_once_tries_again_after_an_error():
    results = [ValueError("a"), 7]

    def work():
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    once = Once(work)
    with pytest.raises(ValueError, match="a"):
        once()
    assert once() == 7


ENDS = """
import os, threading
from cmdiad_runtime.preprocess.work.pieces import Pieces
os.sched_getaffinity = lambda _: {0, 1}

def five():
    with Pieces() as pieces:
        return pieces.offer(lambda: 5).result()

assert five() == 5
if %r:
    child = os.fork()
    if not child:
        os._exit(0 if five() == 5 and threading.active_count() == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with Pieces() as pieces:
    [pieces.offer(lambda: 5) for _ in range(50)]
print("ended")
"""


@pytest.mark.parametrize("forked", [False, True])
def test_processes_end_and_forked_ones_have_a_helper_of_their_own(forked):
    code = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", ENDS % forked]
    ended = subprocess.run(code, timeout=LIMIT_S, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")
