"""Shared parts of all readers: open a file, read headers and tables, turn a decoder's error into an InputError."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import BinaryIO, NoReturn, cast

import numpy as np

from cmdiad_runtime.errors import CmdiadError, InputError
from cmdiad_runtime.readers import limits
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.support import sizes
from cmdiad_runtime.support.regular_file import NotAFileError, open_regular

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_BYTES = 26
"""Length of the PNG signature and the IHDR chunk up to the bit depth (byte 24) and the colour type (byte 25)."""

EIGHT_BITS = "set the camera to 8 bits per channel, or save the image as 8-bit RGB or grey"
"""Action for an image whose numbers Pillow would shorten."""

GREY16 = "save the image as 16-bit grey PNG or TIFF"
"""Action for an image of a detector that reads 16-bit grey images."""

_AGAIN = "wait until the sensor has written the file, or record the sample again"

FilePath = str | PathLike[str]


class ContentError(Exception):
    """Content of a file that is refused, raised where the path is not known; `decoding` adds the path.

    Args:
        found: Description of the problem.
        action: What the user can do about it.
        reason: Machine-readable reason.

    Attributes:
        found: See Args.
        action: See Args.
        reason: See Args.
    """

    def __init__(self, found: str, action: str, reason: Reason = "unsupported") -> None:
        super().__init__(found)
        self.found = found
        self.action = action
        self.reason: Reason = reason


@contextmanager
def open_input(path: FilePath, *, expected: str) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Only a regular file is opened, so that opening and reading never wait for another process.

    Args:
        path: File to open.
        expected: Description of a correct file, for messages.

    Raises:
        InputError: The file is missing, is no regular file, cannot be read, is empty, or is larger than
            `limits.MAX_FILE_BYTES`; or reading it fails or takes too much memory inside the context.
    """
    with refusing_failures(path, expected=expected):
        try:
            file = open_regular(path, follow=True)
        except NotAFileError as error:
            folder = error.kind == "a folder"
            action = "pass a file in this folder" if folder else "save the sample as a file, and pass this file"
            raise _refused(path, error.kind, expected, action, "not-a-file") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _refused(path, "no such file", expected, "check the path", "missing-file") from error
        except (OSError, ValueError) as error:
            problem = f"a file that cannot be opened ({error})"
            raise _refused(path, problem, expected, "check the permissions of the file") from error
        with file:
            size = os.fstat(file.fileno()).st_size
            if size > limits.MAX_FILE_BYTES:
                problem = f"a file of {size / 1e6:,.0f} MB"
                action = f"save a file of at most {limits.MAX_FILE_BYTES / 1e6:,.0f} MB"
                raise _refused(path, problem, expected, action, "too-large")
            if not file.read(1):
                raise _refused(path, "an empty file", expected, _AGAIN)
            file.seek(0)
            yield file


@contextmanager
def refusing_failures(path: FilePath, *, expected: str) -> Iterator[None]:
    """Turn an error of the disk and a lack of memory into an InputError.

    Args:
        path: File, for messages.
        expected: Description of a correct file.

    Raises:
        InputError: The system reported an error while the file was read, or memory is short.
    """
    try:
        yield
    except MemoryError as error:
        problem = "a file that takes more memory than there is"
        action = "check the size of the file, and what else runs on this machine"
        raise _refused(path, problem, expected, action, "out-of-memory") from error
    except OSError as error:
        problem = f"a file that cannot be read ({error.strerror or error})"
        raise _refused(path, problem, expected, "check the disk, the network drive and the cable") from error


def _refused(path: FilePath, problem: str, expected: str, action: str, reason: Reason = "unreadable") -> InputError:
    return InputError(path, found=problem, expected=expected, action=action, reason=reason)


def bounded(file: BinaryIO) -> BinaryIO:
    """Return a file for decoders that trust the lengths in a damaged file.

    A read from disk allocates the requested length, a read from the result at most the rest of the file.
    """
    return cast(BinaryIO, _BoundedFile(file))


class _BoundedFile(io.RawIOBase):
    """See `bounded`."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, or all that are left."""
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position and return it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True


@contextmanager
def decoding(path: FilePath, *, expected: str) -> Iterator[None]:
    """Turn every exception of a decoder into an InputError.

    Pillow and tifffile have no common exception for a damaged file. The kind depends on the damage: `SyntaxError`,
    `struct.error`, `IndexError`, `zlib.error` and others.

    Args:
        path: File, for messages.
        expected: Description of a correct file.

    Raises:
        InputError: The decoder failed, or raised a ContentError.
    """
    try:
        with np.errstate(all="ignore"):  # Numbers of a damaged file may overflow; NumPy would print a warning.
            yield
    except (CmdiadError, MemoryError):
        raise
    except ContentError as error:
        raise _refused(path, error.found, expected, error.action, error.reason) from error
    except Exception as error:
        problem = f"a damaged or incomplete file ({error})"
        raise InputError(path, found=problem, expected=expected, action=_AGAIN) from error


def check_size(path: FilePath, height: int, width: int) -> None:
    """Check that an image is not too large to decode.

    Args:
        path: File, for messages.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        InputError: The image exceeds `sizes.MAX_PIXELS` or `sizes.MAX_IMAGE_SIDE`.
    """
    if not sizes.image_fits(height, width):
        raise _too_large(path, f"{width}×{height} pixels", sizes.image_limits())


def check_points(path: FilePath, height: int, width: int) -> None:
    """Check that a cloud or depth image is not too large to decode.

    Args:
        path: File, for messages.
        height: Rows of the grid.
        width: Columns of the grid.

    Raises:
        InputError: The grid exceeds `sizes.MAX_POINTS` or `sizes.MAX_CLOUD_SIDE`.
    """
    if not sizes.cloud_fits(height, width):
        raise _too_large(path, f"{width}×{height} points", sizes.cloud_limits())


def check_point_count(path: FilePath, count: int) -> None:
    """Check the number of points of a cloud whose rows and columns are not known yet.

    Raises:
        InputError: There are more points than `sizes.MAX_POINTS`.
    """
    if count > sizes.MAX_POINTS:
        raise _too_large(path, f"{count} points", sizes.cloud_limits())


def _too_large(path: FilePath, size: str, expected: str) -> InputError:
    action = "crop or shrink the sensor's image; if the image is smaller, the file is damaged"
    return _refused(path, size, expected, action, "too-large")


def bits_per(unit: str, bits: int) -> str:
    """Return a number of bits as text, for example "16 bits per channel"."""
    return f"{bits} {'bit' if bits == 1 else 'bits'} per {unit}"


def too_many(count: int, unit: str, most: int) -> NoReturn:
    """Refuse a file with too many items of some kind.

    Raises:
        ContentError: Always, with the reason "too-large".
    """
    action = f"save a file with at most {most:,}; if the file should have fewer, the file is damaged"
    raise ContentError(f"{count:,} {unit}", action, "too-large")
