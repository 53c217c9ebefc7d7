"""Folder for files that the runtime can create again: engines built on this machine and tuning caches.

They include engines and self-tests of bundles (`cmdiad_runtime.bundle.site`). The folder is the first of these that
is set and usable:

1. `CMDIAD_CACHE`
2. `XDG_CACHE_HOME`/cmdiad
3. ~/.cache/cmdiad

On a read-only file system there may be no such folder. Everything works without one, only slower. The user requests
the folder in `CMDIAD_CACHE` explicitly, so a failure there is an error.
"""

from __future__ import annotations

import os
from pathlib import Path

from cmdiad_runtime.errors import OutputError

VARIABLE = "CMDIAD_CACHE"


def cache_folder() -> Path | None:
    """Return the folder for caches, which is created if necessary, or None if no folder is usable.

    Raises:
        OutputError: `CMDIAD_CACHE` is not a folder, or the folder cannot be created or written to.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _named_folder(Path(named))
    folder = _user_cache()
    return folder if folder is not None and _usable(folder) else None


def cache_place() -> Path | None:
    """Return the folder to read caches from, or None without one. The folder may be missing or read-only."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else _user_cache()


def _named_folder(folder: Path) -> Path:
    if not _usable(folder):
        raise OutputError(
            f"{VARIABLE}={folder}",
            found="a folder that cannot be created or written to",
            expected="a writable folder",
            action=f"set {VARIABLE} to another folder, or unset {VARIABLE}",
        )
    return folder


def _user_cache() -> Path | None:
    """Return the cache folder of this user. The XDG specification requires that relative paths are ignored."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "cmdiad"
    try:
        home = Path.home()
    except RuntimeError:  # The user has no entry in the user database and no HOME.
        return None
    return home / ".cache" / "cmdiad" if home.is_absolute() else None


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
