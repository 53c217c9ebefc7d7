"""Settings that make tests of the station cheap: a weak hash of passwords, and records that are not flushed."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from cmdiad_line.accounts import passwords


class _UnflushedConnection(sqlite3.Connection):
    """A connection that leaves it to the system when the disk is written."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        return super().execute("PRAGMA synchronous = OFF" if sql.startswith("PRAGMA synchronous") else sql, parameters)


@functools.cache
def _weak_hasher() -> Any:
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture(scope="module", autouse=True)
def weak_hashes() -> Iterator[None]:
    """Hash passwords in a microsecond instead of a quarter of a second. `test_passwords.py` has the real hash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", _weak_hasher)
        yield


@pytest.fixture(scope="module", autouse=True)
def unflushed_records() -> Iterator[None]:
    """Keep SQLite from flushing in this process, which is visible after a power cut only. Processes flush."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=_UnflushedConnection))
        yield
