"""Names of files from standard input, as `find` and `ls` print them: `find photos -name '*.png' | cmdiad-run B -`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cmdiad_runtime.errors import InputError

LONGEST_NAME = 1 << 15
"""Largest number of bytes of a name; systems accept 4096."""
_BLOCK = 1 << 16


def read_names(read: Callable[[int], bytes], *, null: bool = False) -> Iterator[Path]:
    r"""Yield the names of a list as they arrive.

    Empty lines are skipped. Everything else in a line belongs to the name, spaces and bytes that are not UTF-8
    included. A carriage return at the end does not, on Windows, or if only the name without it exists: a list that was
    written on Windows.

    Args:
        read: Function that returns at most this number of bytes as soon as there are any, and none at the end.
        null: True if `\0` separates the names, as `find -print0` writes them; False for line ends.

    Raises:
        InputError: The list is empty, names are separated otherwise than stated, or the input is no list.
    """
    separator, left, empty = (b"\0" if null else b"\n"), b"", True
    while block := read(_BLOCK):
        *lines, left = (left + block).split(separator)
        if len(left) > LONGEST_NAME:
            raise _no_list(f"{len(left)} bytes without the end of a name", null)
        for line in lines:
            for path in _path(line, null):
                empty = False
                yield path
    for path in _path(left, null):
        empty = False
        yield path
    if empty:
        raise _no_list("no name of a file", null)


def read_standard_input(size: int) -> bytes:
    """Return up to `size` bytes of standard input as soon as there are any; none at the end.

    The thread that waits in this function must not hold the lock of `sys.stdin` when the process ends.
    """
    return os.read(0, size)


def _path(line: bytes, null: bool) -> Iterator[Path]:
    if b"\0" in line:
        raise _no_list("names that are separated by zero bytes", null)
    without = line.removesuffix(b"\r")
    if not null and (os.name == "nt" or not without or (os.path.lexists(without) and not os.path.lexists(line))):
        line = without
    if line:
        yield Path(os.fsdecode(line))


def _no_list(problem: str, null: bool) -> InputError:
    return InputError(
        "standard input",
        found=problem,
        expected="the name of a file, followed by a zero byte" if null else "one name of a file in each line",
        action="check the command that prints the list"
        + ("" if null else "; with `find -print0`, pass -0 to cmdiad-run"),
    )
