"""Open files that strangers made: regular files only, without waiting for a pipe and without following a link.

The kind of the path is checked before the file is opened, because some devices act when they are opened, and the kind
of the open file afterwards, because another file may have taken its place. `O_NONBLOCK` and `O_NOFOLLOW` exist on
POSIX systems only.
"""

from __future__ import annotations

import errno
import os
import stat
from os import PathLike
from typing import BinaryIO

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class NotAFileError(OSError):
    """A path leads to something other than a regular file.

    Attributes:
        kind: Text for people, for example "a pipe".
    """

    kind: str

    @staticmethod
    def of(kind: str, path: str | PathLike[str], number: int = errno.EINVAL) -> NotAFileError:
        """Return the error for a path, with an error number of the system."""
        error = NotAFileError(number, f"{kind}, not a file", os.fspath(path))
        error.kind = kind
        return error


def open_regular(path: str | PathLike[str], *, follow: bool = False) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: File to open.
        follow: True to accept a link to a regular file. Links in the folders of the path are always followed.

    Raises:
        NotAFileError: The path is a link, folder, pipe, device or socket.
        OSError: The path is missing or not readable.
    """
    _require_regular(_mode_of(path, follow=follow), path)
    try:
        file = open(path, "rb", opener=_open_following if follow else _open)  # noqa: SIM115 - Path.open has no opener
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise NotAFileError.of("a link", path, errno.ELOOP) from error
        if error.errno == errno.ENXIO:  # The answer of a socket and of a device without a driver.
            raise NotAFileError.of("a device or socket", path, errno.ENXIO) from error
        raise
    try:
        _require_regular(os.fstat(file.fileno()).st_mode, path)
    except BaseException:
        file.close()
        raise
    return file


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


def _open_following(path: str, flags: int) -> int:
    return os.open(path, flags | _NO_WAIT)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | _NO_WAIT | _NO_FOLLOW)


def _mode_of(path: str | PathLike[str], *, follow: bool) -> int:
    return (os.stat if follow else os.lstat)(path).st_mode


def _require_regular(mode: int, path: str | PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        raise NotAFileError.of(kind_of(mode), path, errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL)
