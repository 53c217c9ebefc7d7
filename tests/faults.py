"""Run a command that is killed, or whose disk fails, at a chosen operation or moment.

Tests import `kill_at`, `fault_at` and `count_operations`. All take a command as an entry point with its arguments, for
example `["cmdiad_runtime.cli.run:main", bundle, folder, "--output", out]`.

`kill_at` sends a signal from outside at a moment in time. `fault_at` acts inside the process, at the n-th operation
that changes something below a folder: opening a file for writing, `os.write`, `os.fsync`, renaming, removing, making a
folder, truncating. Trying every n visits every state of the disk that a kill can leave behind.

As a script: faults.py ACTION NUMBER FOLDER ENTRY [ARGUMENT]...
"""

from __future__ import annotations

import atexit
import errno
import importlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACTIONS = ("kill", "term", "enospc", "eio", "count")
"""SIGKILL or SIGTERM to the process itself; an error of the operation; only count the operations."""

_COUNTED = "faults: operations "
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Stopped:
    """How a command ended.

    Attributes:
        code: Exit code; minus the number of the signal if a signal ended the process.
        out: Standard output.
        err: Standard error.
        seconds: Duration.
    """

    code: int
    out: str
    err: str
    seconds: float

    @property
    def whole_lines(self) -> list[str]:
        """Lines of stdout that end with a line end."""
        return self.out.split("\n")[:-1]


def flush_nothing(fd: Any) -> None:
    """Take the place of `os.fsync`: refuse what is not open, and leave it to the system when the disk is written.

    A training flushes a hundred times, which takes a second. What is not flushed is lost at a power cut only, and not
    when a process is killed.
    """
    os.fstat(fd)


def kill_at(command: Sequence[object], moment: float, number: int) -> Stopped:
    """Run a command, send it a signal after `moment` seconds unless it has ended, and wait for its end."""
    return _run([], command, signal_after=(moment, number))


def run_whole(command: Sequence[object]) -> Stopped:
    """Run a command to its end."""
    return _run([], command)


def fault_at(command: Sequence[object], action: str, number: int, folder: Path) -> Stopped:
    """Run a command with a fault at the n-th operation below a folder, counted from 1."""
    return _run([action, str(number), str(folder)], command)


def count_operations(command: Sequence[object], folder: Path) -> int:
    """Run a command to its end and return the number of operations below a folder."""
    ended = fault_at(command, "count", 0, folder)
    match = re.search(rf"{_COUNTED}(\d+)", ended.err)
    assert match is not None, ended.err
    return int(match[1])


def random_moments(seconds: float, count: int, seed: int) -> list[float]:
    """Return random moments within a duration, in order."""
    source = random.Random(seed)
    return sorted(source.uniform(0, seconds) for _ in range(count))


def temporary_files(folder: Path) -> list[str]:
    """Return the hidden files and folders below a folder, except lock files, which stay by design."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.startswith(".") and not path.name.endswith(".lock")
    )


def _run(fault: list[str], command: Sequence[object], signal_after: tuple[float, int] | None = None) -> Stopped:
    words = [
        sys.executable,
        str(Path(__file__)),
        *(fault or ["count", "0", "/nowhere"]),
        *map(os.fspath, map(str, command)),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(words, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment)
        if signal_after is not None:
            moment, number = signal_after
            try:
                process.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        code = process.wait()
        seconds = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        return Stopped(code, out.read().decode(errors="replace"), err.read().decode(errors="replace"), seconds)


# --- in the process of the command ----------------------------------------------------------------------------------


class _Fault:
    """Counter of operations below a folder, which acts at one of them."""

    def __init__(self, action: str, number: int, folder: str) -> None:
        self.action = action
        self.number = number
        self.folder = Path(folder).resolve()
        self.count = 0

    def operation(self, path: object) -> None:
        """Count an operation on a path, and act if this is the one."""
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = Path(os.fsdecode(path)).absolute()
        if self.folder not in (name, *name.parents):
            return
        self.count += 1
        if self.count != self.number:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.action != "count":
            code = {"enospc": errno.ENOSPC, "eio": errno.EIO}[self.action]
            raise OSError(code, os.strerror(code), os.fsdecode(path))

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Receive an audit event of Python."""
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            self.operation(arguments[0])
        elif event in ("os.rename", "os.link"):
            self.operation(arguments[1])
        elif event in ("os.remove", "os.mkdir", "os.rmdir"):
            self.operation(arguments[0])

    def on_descriptor(self, name: str) -> None:
        """Make a function of `os` whose first argument is a file descriptor count as an operation."""
        real = getattr(os, name)

        def wrapped(file: int, *arguments: Any) -> Any:
            if isinstance(file, int):
                self.operation(_path_of(file))
            return real(file, *arguments)

        setattr(os, name, wrapped)


def _path_of(file: int) -> str | None:
    try:
        return str(Path(f"/proc/self/fd/{file}").readlink())
    except OSError:
        return None


def _main(action: str, number: str, folder: str, entry: str, *arguments: str) -> None:
    module, _, function = entry.partition(":")
    sys.argv = [module, *arguments]
    del sys.path[0]  # The folder of this file: a command sees what it would see without this script.
    main = getattr(importlib.import_module(module), function)
    if folder != "/nowhere":
        fault = _Fault(action, int(number), folder)
        for name in ("write", "fsync", "ftruncate"):
            fault.on_descriptor(name)
        if action == "count":
            atexit.register(lambda: sys.stderr.write(f"\n{_COUNTED}{fault.count}\n"))
        sys.addaudithook(fault.audit)
    main()


if __name__ == "__main__":
    _main(*sys.argv[1:])
