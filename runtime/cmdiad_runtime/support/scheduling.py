"""Set the priority of threads: real-time or normal.

A thread of normal priority that wakes up may wait for one or two ticks of the system's timer (4 ms each at 250 Hz)
behind a thread that computes, also if that thread has a lower priority of the same kind. A thread with real-time
priority does not wait. See `sched(7)`. Elsewhere than on Linux nothing changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def take_real_time_priority(priority: int) -> bool:
    """Let this thread run before all threads of normal priority (`SCHED_RR`).

    Threads and processes that it starts from now on begin with the same priority.

    Args:
        priority: Real-time priority, 1 to 99; the higher one runs first.

    Returns:
        True if the thread has real-time priority; False if the system does not allow it. It allows it to root, to
        processes with CAP_SYS_NICE, and up to the limit RLIMIT_RTPRIO (`LimitRTPRIO` in a unit file).
    """
    if not hasattr(os, "sched_setscheduler"):
        return False
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
        return True
    return False


def take_normal_priority() -> None:
    """Undo `take_real_time_priority` for this thread, which may have begun with it. Always allowed."""
    if hasattr(os, "sched_setscheduler"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def real_time_priority(priority: int) -> Iterator[None]:
    """Run a block with real-time priority where the system allows it, see `take_real_time_priority`."""
    take_real_time_priority(priority)
    try:
        yield
    finally:
        take_normal_priority()
