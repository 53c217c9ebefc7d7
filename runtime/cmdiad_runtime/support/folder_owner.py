"""Ownership of a folder by one process at a time, without a file inside the folder.

`flock` on the open folder itself leaves nothing behind, works for every account that may read the folder, and ends
with the process. Windows, and network file systems that cannot lock a folder, use a lock file next to the folder.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Release = Callable[[], None]
_POLL_S = 0.02


def take_folder(folder: Path, *, wait_s: float = 0.0) -> Release | None:
    """Own a folder until the returned function is called or the process ends.

    Args:
        folder: Existing folder.
        wait_s: Seconds to wait for another owner.

    Returns:
        The function that gives the folder back, or None if another owner has the folder.

    Raises:
        OSError: The folder is missing, or cannot be locked.
    """
    deadline = time.monotonic() + wait_s
    while True:
        release = _take(folder)
        if release is not None or time.monotonic() >= deadline:
            return release
        time.sleep(_POLL_S)


def remove_abandoned(parent: Path, is_ours: Callable[[Path], bool]) -> None:
    """Remove the folders that killed processes left, and leave those whose owners are running.

    Args:
        parent: Folder that contains the folders.
        is_ours: Function that returns True for the folders that may be removed. It may raise OSError.
    """
    for path in parent.iterdir():
        with suppress(OSError, NotImplementedError):  # Another process may rename or remove the folder at this moment.
            release = take_folder(path) if is_ours(path) and stat.S_ISDIR(path.lstat().st_mode) else None
            if release is not None:
                shutil.rmtree(path, ignore_errors=True)
                release()


def _take(folder: Path) -> Release | None:
    if fcntl is None:
        return _take_by_file(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # NFS locks only files that are open for writing.
        os.close(descriptor)
        return _take_by_file(folder)
    return lambda: os.close(descriptor)


def _take_by_file(folder: Path) -> Release | None:
    from filelock import FileLock, Timeout

    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    resolved = folder.resolve()
    lock = FileLock(resolved.with_name(f".{resolved.name}.lock"), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None

    def release() -> None:
        lock.release()
        if not resolved.exists():  # A temporary folder, whose name is not used again.
            Path(lock.lock_file).unlink(missing_ok=True)

    return release
