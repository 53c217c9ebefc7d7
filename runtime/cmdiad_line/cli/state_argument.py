"""The argument STATE of commands about a station: its state folder, or its station file."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from cmdiad_runtime.errors import OutputError

STATE = click.argument("place", metavar="STATE", type=click.Path(path_type=Path))
"""Argument `place` of a command function, for `state_of`."""


def state_of(place: Path) -> Path:
    """Return the state folder of a station.

    Args:
        place: State folder, or station file.

    Raises:
        OutputError: There is no such folder or file.
        StationFileError: The station file has mistakes.
    """
    if place.is_dir():
        return place
    if not place.is_file():
        raise OutputError(
            place, found="no such folder or file", expected="a state folder or a station file", action="check the path"
        )
    from cmdiad_line.station_file.read import read_station

    state = read_station(place, running=True).state
    if not state.is_dir():
        raise OutputError(
            state, found="no state folder", expected="the state folder of a station", action="start the station once"
        )
    return state


@contextmanager
def stopped_station(state: Path) -> Iterator[None]:
    """Own the state folder until the block ends, so that no station starts meanwhile.

    Raises:
        OutputError: The station is running, or the state folder cannot be used.
    """
    from cmdiad_runtime.support.lock import LOCK_NAME, InUseError, lock_folder

    with ExitStack() as stack:
        try:
            stack.enter_context(lock_folder(state))
        except InUseError as error:
            raise OutputError(
                state / LOCK_NAME,
                found="a running station",
                expected="a stopped station",
                action="stop the station, or use its engineer page",
            ) from error
        yield


def is_running(state: Path) -> bool:
    """Return True if a station owns the state folder at this moment."""
    from cmdiad_runtime.support.lock import InUseError, lock_folder

    try:
        with lock_folder(state):
            return False
    except InUseError:
        return True


def present_user() -> str:
    """Return the name of the account that runs the command, for the audit log."""
    try:
        return f"command line, {getpass.getuser()}"
    except (KeyError, OSError):  # An account without a name, for example in a container.
        return "command line"
