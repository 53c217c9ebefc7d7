"""Locks between processes: one process at a time writes to a folder.

A lock is an open file that the operating system locks (`flock`, on Windows `LockFile`, through the package
`filelock`). The system releases the lock when the process ends, however that happens, so no lock is ever stale. The
lock file stays, empty, because removing a lock file would let two processes lock two files of the same name. A
command that leaves nothing behind removes it while it owns it: `filelock` does not accept a file that has no name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import FilePath
from cmdiad_runtime.support.in_place import FileInPlace

LOCK_NAME = ".cmdiad.lock"
"""Name of the lock file in a folder that one process owns."""


class InUseError(OutputError):
    """Another process owns a folder."""


@contextmanager
def lock_folder(folder: FilePath, *, wait_s: float = 0.0) -> Iterator[FileInPlace]:
    """Own an existing folder until the block ends. The lock file is `.cmdiad.lock` in the folder.

    Yield the lock file: once that is no longer in place, another process could own a folder of the same name.

    Args:
        folder: Folder to own.
        wait_s: Seconds to wait for another process; 0 refuses at once.

    Raises:
        InUseError: Another process owns the folder.
        OutputError: The lock file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock_file = Path(folder) / LOCK_NAME
    if not Path(folder).is_dir():  # filelock would create the folder
        raise OutputError(
            folder, found=f"no folder {folder}", expected="an existing folder", action=f"create the folder {folder}"
        )
    lock = FileLock(lock_file, thread_local=False)
    try:
        lock.acquire(timeout=wait_s, poll_interval=0.02)
    except Timeout as error:
        raise InUseError(
            folder,
            found="a name that is in use by another process",
            expected="no other process that writes there",
            action="wait until the other process has ended, or choose another name",
        ) from error
    except OSError as error:
        raise OutputError(
            folder,
            found=f"no lock file {lock_file} ({cause_of(error)})",
            expected="a folder in which files can be written and locked",
            action="choose another folder",
        ) from error
    try:
        yield FileInPlace(lock_file, lock_file.stat())
    finally:
        lock.release()
