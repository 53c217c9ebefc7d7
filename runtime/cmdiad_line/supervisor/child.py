"""A process that the supervisor has started, and its link."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cmdiad_line.transport.link import Link, link_pair


@dataclass(kw_only=True)
class Child:
    """A started process.

    Attributes:
        name: Name of the process.
        process: The process of the system.
        link: Link to the process.
        heard_ns: Time of the last message, at first of the start.
        ready: True after the first message that says so.
    """

    name: str
    process: subprocess.Popen[bytes]
    link: Link
    heard_ns: int
    ready: bool = False

    def kill(self) -> None:
        """Kill the process. `ended` returns True when the system has removed it."""
        self.process.kill()

    def ended(self) -> bool:
        """Return True if the system has removed the process. Never blocks."""
        return self.process.poll() is not None


_START = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from cmdiad_line.worker import start
start()
"""
"""Program of a process. The path is that of this process without the present folder, so that a file `http.py` in the
folder where a person starts the station is not imported."""


def start_child(name: str, station_file: Path, folder: Path, now_ns: int) -> Child:
    """Start a process.

    Args:
        name: Name of the process.
        station_file: Copy of the station file.
        folder: Folder that relative paths in the file refer to.
        now_ns: Present monotonic time.

    Raises:
        OSError: The system has no memory or no descriptors left.
    """
    link, other_end = link_pair()
    try:
        with other_end:
            number = other_end.fileno()
            path = json.dumps([entry for entry in sys.path if entry])
            program = [sys.executable, "-I", "-c", _START, path]
            command = [*program, name, str(number), str(station_file), str(folder)]
            process = subprocess.Popen(command, pass_fds=(number,), stdin=subprocess.DEVNULL)  # noqa: S603
    except BaseException:
        link.close()
        raise
    return Child(name=name, process=process, link=link, heard_ns=now_ns)
