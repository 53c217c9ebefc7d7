"""Questions to the operating system."""

from __future__ import annotations

import os

import pytest

from cmdiad_runtime.support import system
from cmdiad_runtime.support.system import limit_cores, usable_cores


def test_a_limit_of_cores_never_raises_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_most_cores", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5})
    assert usable_cores() == 3
    for limit, cores in ((1, 1), (2, 2), (8, 3)):
        limit_cores(limit)
        assert usable_cores() == cores
