"""Open files that strangers made: regular files only, without waiting for a pipe and without following a link.

`O_NONBLOCK` and `O_NOFOLLOW` exist on POSIX systems only. Without them the kind of the path is checked before the
file is opened, and the kind of the open file in any case.
"""

from __future__ import annotations

import errno
import os
import stat
from os import PathLike
from typing import BinaryIO

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | PathLike[str], *, follow: bool = False) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: File to open.
        follow: True to accept a link to a regular file. Links in the folders of the path are always followed.

    Raises:
        OSError: The path is missing or not readable, or is a link, folder, pipe, device or socket.
    """
    if not follow and not _NO_FOLLOW:
        _require_regular(os.lstat(path).st_mode, path)
    try:
        descriptor = os.open(path, _FLAGS | (0 if follow else _NO_FOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(errno.ELOOP, "a link, not a file", os.fspath(path)) from error
        if error.errno == errno.ENXIO:  # The answer of a socket and of a device without a driver.
            raise OSError(errno.ENXIO, "a device or socket, not a file", os.fspath(path)) from error
        raise
    try:
        _require_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | PathLike[str], limit: int, *, follow: bool = False) -> bytes:
    """Return the content of a regular file, at most `limit` + 1 bytes: more than `limit` means a file that is too long.

    Args:
        path: File to read.
        limit: Largest accepted size, bytes.
        follow: True to accept a link to a regular file.

    Raises:
        OSError: See `open_regular`.
    """
    with open_regular(path, follow=follow) as file:
        return file.read(limit + 1)


def kind_of(mode: int) -> str:
    """Return the kind of a file as text, for example "a pipe", from the mode that `os.lstat` returns."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def _require_regular(mode: int, path: str | PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"{kind_of(mode)}, not a file", os.fspath(path))
