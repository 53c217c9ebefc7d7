"""Announce the entries of the feature store that a running training uses, so that no other training removes them."""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref
from pathlib import Path


class Usage:
    """The locked file in which a training announces the keys that it uses, one per line."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._keys: set[str] = set()
        self._end = weakref.finalize(self, _end_usage, self._descriptor, path)

    def add(self, key: str) -> None:
        """Announce a key."""
        if key not in self._keys:
            self._keys.add(key)
            os.write(self._descriptor, f"{key}\n".encode())

    def replace(self, keys: set[str]) -> None:
        """Announce exactly these keys."""
        os.ftruncate(self._descriptor, 0)
        self._keys = set()
        for key in keys:
            self.add(key)

    def close(self) -> None:
        """Announce nothing from now on."""
        self._end()


def _end_usage(descriptor: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)


def used_keys(folder: Path) -> set[str]:
    """Return the keys that running trainings use; remove the announcements of processes that have ended."""
    used: set[str] = set()
    for path in folder.iterdir():
        try:
            with path.open() as file:
                if _is_locked(file.fileno()):
                    used.update(file.read().split())
                else:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
    return used


def _is_locked(descriptor: int) -> bool:
    """Return True if another open file holds the lock, which means that its process is running."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
