"""SQLite flushes the files of a station as their modules promise; the other tests switch that off."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cmdiad_line.mqtt import outbox
from cmdiad_line.records import database

NORMAL, FULL = 1, 2


@pytest.fixture(scope="module", autouse=True)
def unflushed_records() -> None:
    """Take the place of the fixture that keeps SQLite from flushing."""


def level(connection: sqlite3.Connection) -> int:
    try:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])
    finally:
        connection.close()


def test_a_committed_row_survives_a_power_failure(tmp_path: Path) -> None:
    assert level(database._connected(tmp_path / "records.sqlite")) == FULL


def test_a_power_failure_may_cost_messages_and_never_the_outbox(tmp_path: Path) -> None:
    assert level(outbox._connect(tmp_path / "outbox.sqlite")) == NORMAL
