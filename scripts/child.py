"""Run a command in a child process of a script that tries many: forked, so that imports are done once."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NAMES = ("out", "err")
SECONDS = 120.0
"""Longest duration of one command."""


@dataclass(frozen=True)
class Ended:
    """The end of a command.

    Attributes:
        code: Exit code; negative for a signal.
        out: Standard output.
        err: Standard error.
        seconds: Duration.
        memory: Largest resident memory, bytes.
    """

    code: int
    out: str
    err: str
    seconds: float
    memory: int


def run(
    command: Callable[[], None], folder: Path, *, send: signal.Signals | None = None, after_s: float = 0.0
) -> Ended:
    """Run a command in a child process.

    Args:
        command: Function to call; `SystemExit` is the exit code, any other exception is printed.
        folder: Folder for the files `out` and `err`.
        send: Signal to send to the child, or None.
        after_s: Seconds after which the signal is sent.

    Raises:
        AssertionError: The command takes longer than `SECONDS`.
    """
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(command, folder)
    if send is not None:
        time.sleep(after_s)
        os.kill(child, send)
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            out, err = (
                (folder / name).read_text(errors="replace") if (folder / name).exists() else "" for name in NAMES
            )
            code = os.waitstatus_to_exitcode(status)
            return Ended(code, out, err, time.monotonic() - start, usage.ru_maxrss * 1024)
        if time.monotonic() - start > SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError("a hang")
        time.sleep(0.002)


def _read(path: Path) -> str:
    """Return a text, or "" if the child ended before the file was made."""
    return path.read_text(errors="replace") if path.exists() else ""


def _be_child(command: Callable[[], None], folder: Path) -> None:
    code = 99
    try:
        for number, name in enumerate(NAMES, 1):
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, number)
        command()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
