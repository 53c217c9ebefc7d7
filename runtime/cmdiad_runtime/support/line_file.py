"""A text file that grows line by line, and in which every line is whole, whatever ends the process or the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from types import TracebackType

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import flush_folder
from cmdiad_runtime.support.in_place import FileInPlace

SYNC_SECONDS = 1.0
"""Longest time between two flushes to the disk while lines are appended."""


class LineFile:
    """A file that is open for appending lines.

    `append` passes a line to the operating system before it returns, so the line survives the end of the process,
    including `kill -9`. To survive a power failure too, the file is flushed to the disk at most once per SYNC_SECONDS
    and when it is closed. A line that does not fit on the disk is removed again, and the file stays whole. No line is
    written into a file that was removed, moved or replaced.

    Args:
        path: File to append to; created if missing. Its content must end with a line end.

    Raises:
        OutputError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            created = not path.exists()
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            if created:
                flush_folder(path.parent)
        except OSError as error:
            raise _not_written(path, error) from error
        self._place = FileInPlace(path, os.fstat(self._file))
        self._synced = time.monotonic()
        self._open = True

    @property
    def size(self) -> int:
        """Return the size of the file in bytes: that of all whole lines."""
        return os.fstat(self._file).st_size

    def require_in_place(self) -> None:
        """Check that the path still leads to this file.

        Raises:
            OutputError: The file was removed, moved or replaced.
        """
        self._place.require()

    def append(self, line: str) -> None:
        """Append one line.

        Args:
            line: Text without a line end.

        Raises:
            OutputError: The line cannot be written, the file is no longer in place, or the file cannot be flushed.
                Earlier lines stay.
        """
        self.require_in_place()
        content = f"{line}\n".encode()
        before = self.size
        try:
            _write_all(self._file, content)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise _not_written(self.path, error) from error
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Flush the file to the disk.

        Raises:
            OutputError: The disk reports an error.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EROFS):  # Pipes and devices cannot be flushed.
                raise _not_written(self.path, error) from error
        self._synced = time.monotonic()

    def close(self) -> None:
        """Flush and close the file. Idempotent.

        Raises:
            OutputError: The disk reports an error.
        """
        if self._open:
            self._open = False
            try:
                self.sync()
            finally:
                os.close(self._file)

    def __enter__(self) -> LineFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write_all(file: int, content: bytes) -> None:
    """Write everything; the system may take a part only, for example the part that still fits on the disk."""
    written = os.write(file, content)
    while written < len(content):
        written += os.write(file, content[written:])


def _not_written(path: Path, error: OSError) -> OutputError:
    return OutputError(
        path,
        found=f"a file that cannot be written ({cause_of(error)})",
        expected="room and permission to write",
        action="free some space, check the disk, or choose another folder",
    )
