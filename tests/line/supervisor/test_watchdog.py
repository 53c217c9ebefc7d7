"""The watchdog of systemd is fed only while inferences are proved."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmdiad_line.supervisor.watchdog import DEFAULT_INTERVAL_NS, Watchdog, notify

SECOND = 10**9


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(8_000_000))
        yield end


def received(end: socket.socket) -> list[bytes]:
    lines = []
    while True:
        try:
            lines.append(end.recv(1000))
        except BlockingIOError:
            return lines


def test_notify_reaches_systemd(systemd):
    notify("READY=1")
    assert received(systemd) == [b"READY=1"]


def test_notify_without_systemd_does_nothing(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    assert Watchdog().interval_ns == DEFAULT_INTERVAL_NS


def test_watchdog_is_not_fed_without_a_proof(systemd):
    watchdog = Watchdog()
    watchdog.feed(100 * SECOND)
    assert received(systemd) == []
    assert watchdog.probe_due(100 * SECOND)


def test_watchdog_is_fed_after_a_proof_until_it_is_too_old(systemd):
    watchdog = Watchdog()
    watchdog.prove(100 * SECOND)
    assert not watchdog.probe_due(101 * SECOND)
    watchdog.feed(101 * SECOND)
    watchdog.feed(101 * SECOND)
    assert received(systemd) == [b"WATCHDOG=1"]
    assert watchdog.probe_due(102 * SECOND)
    watchdog.feed(104 * SECOND)
    assert received(systemd) == [b"WATCHDOG=1"]
    watchdog.feed(104 * SECOND + 1)
    assert received(systemd) == []


def test_watchdog_is_not_fed_after_a_doubt(systemd):
    watchdog = Watchdog()
    watchdog.prove(100 * SECOND)
    watchdog.doubt()
    watchdog.feed(101 * SECOND)
    assert received(systemd) == []


def test_interval_of_another_process_is_not_used(systemd, monkeypatch):
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert Watchdog().interval_ns == DEFAULT_INTERVAL_NS
