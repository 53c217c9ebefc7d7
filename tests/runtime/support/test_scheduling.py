"""Real-time priority of threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from cmdiad_runtime.support.scheduling import real_time_priority, take_normal_priority, take_real_time_priority

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="needs Linux")


def test_priority_is_that_of_the_system_and_of_new_threads() -> None:
    def policies() -> tuple[bool, tuple[int, int, int], tuple[int, int]]:
        taken = take_real_time_priority(1)
        own = os.sched_getscheduler(0)
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(os.sched_getscheduler, 0).result()
        take_normal_priority()
        undone = os.sched_getscheduler(0)
        with real_time_priority(1):
            inside = os.sched_getscheduler(0)
        return taken, (own, started, inside), (undone, os.sched_getscheduler(0))

    with ThreadPoolExecutor(1) as pool:
        taken, own, afterwards = pool.submit(policies).result()
    assert own == ((os.SCHED_RR if taken else os.SCHED_OTHER),) * 3
    assert afterwards == (os.SCHED_OTHER, os.SCHED_OTHER)


def test_without_the_right_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert not take_real_time_priority(1)
    take_normal_priority()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
