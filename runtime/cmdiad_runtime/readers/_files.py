"""What all readers share: opening a file, and turning a decoder's complaints into an `InputError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from cmdiad_runtime.errors import CmdiadError, InputError

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: 300 MB as RGB, more than any inspection needs."""

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
