"""What all readers share: opening a file, and turning a decoder's complaints into an `InputError`."""

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

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: 300 MB as RGB, more than any inspection needs."""

_MAX_HEADER = 65_536
"""Bytes that the text header of a PLY or PCD file may take."""

FilePath = str | PathLike[str]


@contextmanager
def open_input(path: FilePath, *, expected: str) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Raises:
        InputError: the file is missing, is a folder, may not be read, or is empty.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115 (closed below; this try must not see the caller's errors)
    except FileNotFoundError as error:
        raise InputError(path, found="no such file", expected=expected, action="check the path") from error
    except IsADirectoryError as error:
        raise InputError(path, found="a folder", expected=expected, action="name one file in it") from error
    except (OSError, ValueError) as error:
        found = f"a file that cannot be opened ({error})"
        raise InputError(path, found=found, expected=expected, action="check its permissions") from error
    with file:
        if not file.read(1):
            action = "wait until the sensor has written it, or record it again"
            raise InputError(path, found="an empty file", expected=expected, action=action)
        file.seek(0)
        yield file


def in_memory(file: BinaryIO) -> BinaryIO:
    """The rest of a file, for decoders that believe the lengths in it: a file allocates what is asked for."""
    return io.BytesIO(file.read())


@contextmanager
def decoding(path: FilePath, *, expected: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an `InputError`.

    Pillow and tifffile have no common error for a damaged file: they raise what the damage provokes
    (`SyntaxError`, `struct.error`, `IndexError`, `zlib.error`, ...).
    """
    try:
        yield
    except (CmdiadError, MemoryError):
        raise
    except Exception as error:
        found = f"a damaged or incomplete file ({error})"
        action = "wait until the sensor has written it, or record it again"
        raise InputError(path, found=found, expected=expected, action=action) from error


def check_size(path: FilePath, height: int, width: int) -> None:
    """Raise an `InputError` when an image of `height` x `width` pixels is too large to decode."""
    if height * width > MAX_PIXELS:
        raise InputError(
            path,
            found=f"{width}×{height} pixels",
            expected=f"at most {MAX_PIXELS // 1_000_000} million pixels",
            action="crop or shrink the image; if it is not that large, the file is damaged",
        )


def header_lines(file: BinaryIO) -> Iterator[str]:
    """The lines of a text header, without their ends; the caller stops at the last.

    Raises:
        EOFError: the file ends, or 64 KiB are read, before the caller has stopped.
    """
    left = _MAX_HEADER
    while line := file.readline(left):
        left -= len(line)
        yield line.decode("latin-1").strip()
    raise EOFError("its header does not end")


def whole_number(text: str) -> int:
    """The number that a header names; stricter than `int`, which takes `+1_0` too.

    Raises:
        ValueError: it is not 1 to 18 digits.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{text[:20]!r} where its header should have a number")
    return int(text)


def check_left(file: BinaryIO, size: int) -> None:
    """Check before anything is allocated that `size` more bytes are there.

    Raises:
        EOFError: they are not.
    """
    left = os.fstat(file.fileno()).st_size - file.tell()
    if size > left:
        raise EOFError(f"it ends {size - left} bytes early")


def read_bytes(file: BinaryIO, size: int) -> bytes:
    """The next `size` bytes; `EOFError` as `check_left`."""
    check_left(file, size)
    return file.read(size)


def read_text_table(file: BinaryIO, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Numbers in text, one row a line: float64 `[rows, columns]`.

    Raises:
        EOFError: there are fewer lines.
        ValueError: a line has another number of columns, or a word that is no number.
    """
    check_left(file, rows * (2 * columns) - 1)  # a digit and a blank each, but for the last
    lines = (line.decode("latin-1") for line in islice(file, rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy only warns about nothing but empty lines
        table = np.loadtxt(lines, dtype=np.float64, comments=None, ndmin=2)
    if table.shape != (rows, columns):
        raise EOFError(f"{len(table)} rows of {table.shape[1]} numbers, not {rows} of {columns}")
    return table
