"""Shared parts of the readers of PLY and PCD: text headers, exact reads, and tables of numbers in text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._files import ContentError, too_many

_WINDOWS_MISSING = re.compile(r"[-+]?(?:[0-9]\.#[A-Z]+[0-9]*|nan\([a-z0-9_]*\))(?=\s|$)", re.IGNORECASE)
"""Spellings of NaN and infinity by C libraries: `1.#QNAN`, `-1.#IND00`, `1.#INF`, `1.#J`, `-nan(ind)`, `nan(0x1)`."""
_COMMA_NUMBER = re.compile(r"[-+]?[0-9]*,?[0-9]+(?:e[-+]?[0-9]+)?|[-+]?(?:nan|inf|infinity)", re.IGNORECASE)
_BLOCK_ROWS = 1 << 18
"""Rows of a table that are read at once."""
_DECIMAL_POINT = "save numbers with a decimal point and blanks between them"


def header_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a text header with single blanks between words; the caller stops at the last one.

    Raises:
        EOFError: The file ends before the caller has stopped.
        ContentError: The header is larger than `limits.MAX_HEADER_BYTES`.
    """
    left = limits.MAX_HEADER_BYTES
    while line := file.readline(left):
        left -= len(line)
        yield " ".join(line.decode("latin-1").split())
    if left:
        raise EOFError("its header does not end")
    action = (
        f"save a header of at most {limits.MAX_HEADER_BYTES:,} bytes; if the header is shorter, the file is damaged"
    )
    raise ContentError("a header that does not end", action, "too-large")


def whole_number(text: str) -> int:
    """Parse a number in a header. This is stricter than `int`, which also accepts `+1_0`.

    Raises:
        ValueError: The text is not 1 to 18 digits.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{text[:20]!r} where its header should have a number")
    return int(text)


def check_fields(count: int, unit: str) -> None:
    """Check a number of fields or elements in a header.

    Raises:
        ContentError: There are more than `limits.MAX_HEADER_FIELDS`.
    """
    if count > limits.MAX_HEADER_FIELDS:
        too_many(count, unit, limits.MAX_HEADER_FIELDS)


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
    data = file.read(size)
    if len(data) != size:  # The file became shorter in the meantime.
        raise EOFError(f"it ends {size - len(data)} bytes early")
    return data


def read_records(
    file: BinaryIO, rows: int, dtype: np.dtype[Any], fields: Sequence[str]
) -> list[npt.NDArray[np.floating[Any]]]:
    """Read some fields of a binary table, a block of rows at a time, so that only these fields take memory.

    Args:
        file: File at the first row.
        rows: Number of rows.
        dtype: Structured dtype of a row.
        fields: Fields to return, of one number each.

    Returns:
        Values of each field, `[rows]`, native byte order.

    Raises:
        EOFError: The file is shorter.
    """
    check_left(file, rows * dtype.itemsize)
    columns = [np.empty(rows, dtype=dtype[field].base.newbyteorder("=")) for field in fields]
    for start in range(0, rows, _BLOCK_ROWS):
        count = min(_BLOCK_ROWS, rows - start)
        block = np.frombuffer(read_bytes(file, count * dtype.itemsize), dtype)
        for column, field in zip(columns, fields, strict=True):
            column[start : start + count] = block[field].reshape(count)
    return columns


def read_text_table(file: BinaryIO, rows: int, columns: int, keep: Sequence[int]) -> npt.NDArray[np.float64]:
    """Read numbers in text, one row per line, and return some columns.

    Missing values may be spelled as by Windows software (`-nan(ind)`, `1.#QNAN`), and numbers may have decimal commas
    if no number has a decimal point.

    Args:
        file: File at the first line.
        rows: Number of lines.
        columns: Numbers in each line.
        keep: Columns to return.

    Returns:
        float64 `[rows, keep]`, NaN for missing values.

    Raises:
        EOFError: There are fewer lines.
        ValueError: A line has another number of columns, or a word is not a number.
        ContentError: Commas separate numbers, or numbers have points and commas.
    """
    check_left(file, rows * (2 * columns) - 1)  # At least one digit and one blank per number.
    table = np.empty((rows, len(keep)), dtype=np.float64)
    tolerant = _Tolerant()
    for first in range(0, rows, _BLOCK_ROWS):
        count = min(_BLOCK_ROWS, rows - first)
        block = _read_block(file, count, tolerant)
        if block.shape != (count, columns):
            raise EOFError(f"{first + len(block)} rows of {block.shape[1]} numbers, not {rows} of {columns}")
        table[first : first + count] = block[:, list(keep)]
    return table


def _read_block(file: BinaryIO, rows: int, tolerant: _Tolerant) -> npt.NDArray[np.float64]:
    start = file.tell()
    try:
        block = _parsed(_lines(file, rows))
    except ValueError:
        file.seek(start)
        return _parsed(map(tolerant.plain, _lines(file, rows)))
    tolerant.points = True  # No comma: this block would have failed.
    return block


def _parsed(lines: Iterator[str]) -> npt.NDArray[np.float64]:
    first = next((line for line in lines if line.strip()), None)
    if first is None:  # NumPy would warn. A filter of warnings would hold for all threads, also for those that prepare.
        return np.empty((0, 1))
    return np.loadtxt(chain([first], lines), dtype=np.float64, comments=None, ndmin=2)


def _lines(file: BinaryIO, rows: int) -> Iterator[str]:
    """Yield lines up to the largest length; a longer line appears as two, which differ in their columns."""
    for line in islice(iter(lambda: file.readline(limits.MAX_HEADER_BYTES), b""), rows):
        yield line.decode("latin-1")


class _Tolerant:
    """A translation of lines into numbers that NumPy reads.

    Attributes:
        points: True if a line had a decimal point.
        commas: True if a line had a comma.
    """

    def __init__(self) -> None:
        self.points = False
        self.commas = False

    def plain(self, line: str) -> str:
        """Return a line with missing values as `nan` and with decimal points.

        Raises:
            ContentError: See `read_text_table`.
        """
        words = _WINDOWS_MISSING.sub("nan", line)
        self.points |= "." in words
        if "," in words:
            self.commas = True
            if not all(map(_COMMA_NUMBER.fullmatch, words.split())):
                raise ContentError("numbers that are separated by commas", _DECIMAL_POINT)
            words = words.replace(",", ".")
        if self.points and self.commas:
            raise ContentError("numbers with decimal points and numbers with commas", _DECIMAL_POINT)
        return words
