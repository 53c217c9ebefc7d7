"""Cameras that run freely: the first frame that was captured after the trigger counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from cmdiad_line.acquisition.source import FrameTimeoutError, Order

_Content = TypeVar("_Content")


def first_after(
    order: Order, timeout_s: float, next_frame: Callable[[float], tuple[int, _Content]]
) -> tuple[int, _Content]:
    """Return the capture time and the content of the first frame that was captured after a trigger.

    Args:
        order: Order with the time of the trigger.
        timeout_s: Longest time to wait in seconds.
        next_frame: Function that waits for the next frame, at most for a number of seconds, and returns its capture
            time in nanoseconds of the monotonic clock and its content.

    Raises:
        FrameTimeoutError: There is none yet.
    """
    end = time.monotonic() + timeout_s
    while (left_s := end - time.monotonic()) > 0:
        captured_ns, content = next_frame(left_s)
        if captured_ns >= order.triggered_ns:
            return captured_ns, content
    raise FrameTimeoutError
