"""Limits and loops for tests that wait for processes and threads, and free ports for the servers of tests."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

LIMIT_S = 300.0
"""Seconds to wait for something that must happen. Only a broken product reaches this, on the slowest machine."""
_FIRST, _NUMBER = 20_000, 12_000  # Ray gives its workers ports below 20000, and Linux connections those from 32768 on.
_offsets = count(os.getpid() * 101)


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Return the first true value of a condition. The test fails if none comes within `LIMIT_S`.

    Args:
        condition: Function that is called every few milliseconds.
        what: What is waited for, for the message of the failure.
    """
    end = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {LIMIT_S:g} s in vain for {what}"
        time.sleep(0.005)
    return value


def free_port() -> int:
    """Return a port of loopback that nothing uses, and that no connection of another test gets in the meantime."""
    for offset in _offsets:
        port = _FIRST + offset % _NUMBER
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError("unreachable: the offsets never end")


@contextmanager
def refusing_port() -> Iterator[int]:
    """Yield a port of loopback that refuses every connection until the block ends: bound, but without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])
