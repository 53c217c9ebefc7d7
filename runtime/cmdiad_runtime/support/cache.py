"""Where the runtime may keep what it can make again: engines built on this machine, tuning caches.

The first of these that is set and usable:

1. `CMDIAD_CACHE`
2. `XDG_CACHE_HOME`/cmdiad
3. ~/.cache/cmdiad

On a read-only file system there is none, and nothing is kept: everything works without it, only slower. The
folder named by `CMDIAD_CACHE` is asked for, so a failure there is an error and not a silent loss.
"""

from __future__ import annotations

import os
from pathlib import Path

from cmdiad_runtime.errors import OutputError

VARIABLE = "CMDIAD_CACHE"


def cache_folder() -> Path | None:
    """The folder for caches, made if need be; None where there is no place for one.

    Raises:
        OutputError: `CMDIAD_CACHE` names something that is no folder, cannot be made or cannot be written to.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _named_folder(Path(named))
    folder = _user_cache()
    return folder if folder is not None and _usable(folder) else None


def _named_folder(folder: Path) -> Path:
    if not _usable(folder):
        raise OutputError(
            f"{VARIABLE}={folder}",
            found="a folder that cannot be made or written to",
            expected="a writable folder",
            action=f"name another one, or unset {VARIABLE}",
        )
    return folder


def _user_cache() -> Path | None:
    """The user's cache folder of this program; relative paths are ignored, as the XDG specification asks."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "cmdiad"
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry in the user database and without HOME
        return None
    return home / ".cache" / "cmdiad" if home.is_absolute() else None


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
