"""Start of every process of a station except the supervisor.

The supervisor starts this with the arguments ROOM DESCRIPTOR STATION_FILE FOLDER: the room, the descriptor of its
link, the copy of the station file, and the folder that relative paths in it refer to.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from cmdiad_line.station_file.read import read_station
from cmdiad_line.transport.link import LinkClosedError, LinkFullError, link_from_descriptor
from cmdiad_line.transport.messages import Failed
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import missing_package
from cmdiad_runtime.support.output import say
from cmdiad_runtime.support.scheduling import take_normal_priority, take_real_time_priority

ROOMS = ("records", "acquisition", "inspection", "plc", "opcua", "mqtt", "web")
"""Processes of a station; each is the module `cmdiad_line.ROOM.process`."""
NATIVE = ("acquisition", "inspection")
"""Processes with drivers and engines that may hang in native code, where they cannot notice the supervisor's end."""
IN_TIME = ("records", "acquisition", "plc")
"""Processes that take part in every result besides the detector. They need little time and must have it at once. The
detector has normal priority: if it hangs, it must not keep a core from the supervisor, which answers NG."""
REAL_TIME = 10
"""Real-time priority of `IN_TIME`."""
SWITCH_S = 0.0005
"""Longest time in seconds for which a thread keeps the others of its process from running Python code. A part must not
wait for a picture that is drawn, a frame that is prepared or a recipe that is loaded."""

_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux
_logger = logging.getLogger("cmdiad.line")


def main(arguments: Sequence[str]) -> int:
    """Run a process until the supervisor ends it, and return the exit code."""
    room, descriptor, file, folder = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor too, which ends the others in order.
    if room != "acquisition":  # The folder of a camera stays as open as its owner has made it.
        os.umask(0o077)
    if room in NATIVE:
        _die_with_supervisor()
    _set_up_logging()
    sys.setswitchinterval(SWITCH_S)
    link = link_from_descriptor(int(descriptor))
    try:
        station = read_station(Path(file), folder=Path(folder), running=True)
        import_module(f"cmdiad_line.{room}.process").serve(link, station)
    except LinkClosedError:
        return 0
    except Exception as error:
        _logger.debug("%s failed", room, exc_info=True)
        problem = printable(_describe(error))
        say(f"error: {room}: {problem}")
        with suppress(LinkClosedError, LinkFullError):
            link.send(Failed(message=problem))
        return error.exit_code if isinstance(error, CmdiadError) else 1
    finally:
        link.close()
    return 0


def _describe(error: Exception) -> str:
    """Return an error as one line, with the remedy if it is known."""
    if isinstance(error, ModuleNotFoundError) and (problem := missing_package(error, "cmdiad-line")):
        return problem
    return str(error) if isinstance(error, CmdiadError | OSError) else f"{type(error).__name__}: {error}"


def _die_with_supervisor() -> None:
    """Have the system kill this process when the supervisor is killed, even while a driver does not return."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DEATH, signal.SIGKILL, 0, 0, 0)


def _set_up_logging() -> None:
    level = os.environ.get("CMDIAD_LOG", "").upper() or "WARNING"
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(name)s: %(message)s", level=level)


def start() -> None:
    """Run the process that the command line names, and end with its exit code."""
    if len(sys.argv) != 5 or sys.argv[1] not in ROOMS:
        sys.exit("cmdiad-line starts this module by itself. Run: cmdiad-line run FILE.")
    if sys.argv[1] in IN_TIME:
        take_real_time_priority(REAL_TIME)
    else:
        take_normal_priority()  # The supervisor may have real-time priority.
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    start()
