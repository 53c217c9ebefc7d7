"""Lines on stdout and stderr of a command whose work must not depend on a reader of these lines."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

import click

from cmdiad_runtime.printable import cause_of


def occupy_standard_streams() -> None:
    """Open the null device as stdin, stdout and stderr where these are closed.

    Otherwise the next opened file, for example one with results, would become stdout or stderr for all libraries of
    the process, and their messages would end up in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # The system takes the lowest free number.


def say(line: str) -> None:
    """Write one line to stderr. A closed terminal or pipe is no error: nobody reads the line."""
    try:
        click.echo(line, err=True)
    except (OSError, ValueError):  # ValueError: the file object is closed.
        _discard(sys.stderr)


class ResultLines:
    """Lines on stdout, each flushed at once, for a program that acts on them.

    Attributes:
        broken: Description of the error after which nothing is written any more; "" as long as stdout works.
    """

    def __init__(self) -> None:
        self.broken = ""

    def write(self, line: str) -> None:
        r"""Write one line. Characters that the encoding of stdout lacks become escapes such as `\xfc`."""
        if self.broken:
            return
        if sys.stdout is None:
            self.broken = "closed"
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        try:
            click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self.broken = cause_of(error)
            _discard(sys.stdout)


def _discard(stream: TextIO) -> None:
    """Lead a stream to the null device, so that what is still buffered causes no error when the process ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)
