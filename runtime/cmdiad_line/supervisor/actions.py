"""Actions that `Dispatch` asks the supervisor to take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cmdiad_line.reasons import StationReason
from cmdiad_line.transport.messages import AcquisitionDone, Message, Result


@dataclass(frozen=True)
class Send:
    """Send a message to one process."""

    to: str
    message: Message


@dataclass(frozen=True)
class Publish:
    """Send a message to every outside process, first of all to the one that triggered."""

    channel: str
    message: Result | AcquisitionDone


@dataclass(frozen=True)
class Adopt:
    """Write the acquisition id into the header of the slot of a pushed frame, in place of the token."""

    slot: int
    token: int
    acquisition_id: int


@dataclass(frozen=True)
class Kill:
    """Kill a process that does not answer."""

    process: str
    reason: StationReason


Action: TypeAlias = Send | Publish | Adopt | Kill
