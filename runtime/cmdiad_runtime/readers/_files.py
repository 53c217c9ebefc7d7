"""Shared parts of all readers: open a file, read headers and tables, turn a decoder's error into an InputError."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import CmdiadError, InputError
from cmdiad_runtime.reasons import Reason

MAX_PIXELS = 100_000_000
"""Largest image to decode: 300 MB as RGB, more than any inspection needs."""

_MAX_HEADER = 65_536
"""Largest text header of a PLY or PCD file in bytes."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_BYTES = 26
"""Length of the PNG signature and the IHDR chunk up to the bit depth (byte 24) and the colour type (byte 25)."""

_AGAIN = "wait until the sensor has written the file, or record the sample again"

FilePath = str | PathLike[str]


@contextmanager
def open_input(path: FilePath, *, expected: str) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Args:
        path: File to open.
        expected: Description of a correct file, for messages.

    Raises:
        InputError: The file is missing, is a folder, cannot be read, or is empty.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below; this try must not see the caller's errors
    except FileNotFoundError as error:
        raise _refused(path, "no such file", expected, "check the path", "missing-file") from error
    except IsADirectoryError as error:
        raise _refused(path, "a folder", expected, "pass a file in this folder", "not-a-file") from error
    except (OSError, ValueError) as error:
        problem = f"a file that cannot be opened ({error})"
        raise InputError(path, found=problem, expected=expected, action="check the permissions of the file") from error
    with file:
        if not file.read(1):
            raise InputError(path, found="an empty file", expected=expected, action=_AGAIN)
        file.seek(0)
        yield file


def _refused(path: FilePath, problem: str, expected: str, action: str, reason: Reason) -> InputError:
    return InputError(path, found=problem, expected=expected, action=action, reason=reason)


def in_memory(file: BinaryIO) -> BinaryIO:
    """Return the rest of a file as a file in memory.

    Decoders trust the lengths in a damaged file. A read from disk allocates the requested length, a read from memory
    at most the size of the file.
    """
    return io.BytesIO(file.read())


@contextmanager
def decoding(path: FilePath, *, expected: str) -> Iterator[None]:
    """Turn every exception of a decoder into an InputError.

    Pillow and tifffile have no common exception for a damaged file. The kind depends on the damage: `SyntaxError`,
    `struct.error`, `IndexError`, `zlib.error` and others.

    Args:
        path: File, for messages.
        expected: Description of a correct file.

    Raises:
        InputError: The decoder failed.
    """
    try:
        yield
    except (CmdiadError, MemoryError):
        raise
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
        InputError: The image has more than MAX_PIXELS pixels.
    """
    if height * width > MAX_PIXELS:
        raise InputError(
            path,
            found=f"{width}×{height} pixels",
            expected=f"at most {MAX_PIXELS // 1_000_000} million pixels",
            action="crop or shrink the image; if the image is smaller, the file is damaged",
            reason="too-large",
        )


def header_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a text header without line ends; the caller stops at the last one.

    Raises:
        EOFError: The file ends, or 64 KiB are read, before the caller has stopped.
    """
    left = _MAX_HEADER
    while line := file.readline(left):
        left -= len(line)
        yield line.decode("latin-1").strip()
    raise EOFError("its header does not end")


def whole_number(text: str) -> int:
    """Parse a number in a header. This is stricter than `int`, which also accepts `+1_0`.

    Raises:
        ValueError: The text is not 1 to 18 digits.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{text[:20]!r} where its header should have a number")
    return int(text)


def check_left(file: BinaryIO, size: int) -> None:
    """Check that a file has `size` more bytes, before anything is allocated.

    Raises:
        EOFError: The file is shorter.
    """
    left = os.fstat(file.fileno()).st_size - file.tell()
    if size > left:
        raise EOFError(f"it ends {size - left} bytes early")


def read_bytes(file: BinaryIO, size: int) -> bytes:
    """Read exactly `size` bytes.

    Raises:
        EOFError: The file is shorter.
    """
    check_left(file, size)
    return file.read(size)


def read_text_table(file: BinaryIO, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Read numbers in text, one row per line.

    Args:
        file: File at the first line.
        rows: Number of lines.
        columns: Numbers in each line.

    Returns:
        float64 `[rows, columns]`.

    Raises:
        EOFError: There are fewer lines.
        ValueError: A line has another number of columns, or a word is not a number.
    """
    check_left(file, rows * (2 * columns) - 1)  # At least one digit and one blank per number.
    lines = (line.decode("latin-1") for line in islice(file, rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy only warns if all lines are empty.
        table = np.loadtxt(lines, dtype=np.float64, comments=None, ndmin=2)
    if table.shape != (rows, columns):
        raise EOFError(f"{len(table)} rows of {table.shape[1]} numbers, not {rows} of {columns}")
    return table
