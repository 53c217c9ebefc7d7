"""Section `[station]`: name, folders and times of a station."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.support.records import require, require_integer, require_name


@dataclass(frozen=True, kw_only=True)
class General:
    """The keys of the section `[station]`.

    Attributes:
        name: Name of the station in records, on pages and on the buses.
        state: Folder of the station's records, pictures and recipes. One station owns it.
        deadline_ms: Milliseconds from the trigger to the result. Without a result by then the part is NG.
        margin_ms: Milliseconds before the deadline at which a part without a result becomes NG, so that this NG is on
            the wire in time.
        max_in_work: Largest number of parts in work. A further trigger is an overrun: NG at once.
        max_frame_age_ms: Largest age in milliseconds of a pushed frame when it is inspected.
        hang_ms: Milliseconds after its time limit at which an engine or a driver that does not answer is killed.
        restarts_per_minute: Number of restarts of processes in a minute after which the station gives up.
        frame_slots: Number of frames in memory.
        frame_megapixels: Largest frame in millions of pixels: 3 bytes per pixel of an image, 12 per point of a cloud.
            The memory of all slots is reserved at the start.
        simulation: True to let a simulated sensor drive GPIO, or a Modbus or OPC UA client on another machine; for
            commissioning only, because a simulated sensor does not see the part.
    """

    name: str
    state: Path
    deadline_ms: int = 1000
    margin_ms: int = 20
    max_in_work: int = 2
    max_frame_age_ms: int = 1000
    hang_ms: int = 2000
    restarts_per_minute: int = 5
    frame_slots: int = 8
    frame_megapixels: float = 12.0
    simulation: bool = False

    def __post_init__(self) -> None:
        require_name(self, "name")
        require_integer(self, "deadline_ms", 10, 600_000)
        require_integer(self, "margin_ms", 1, 10_000)
        require(self.margin_ms < self.deadline_ms, self, "margin_ms", f"less than deadline_ms, {self.deadline_ms}")
        require_integer(self, "max_in_work", 1, 64)
        require_integer(self, "max_frame_age_ms", 10, 600_000)
        require_integer(self, "hang_ms", 100, 600_000)
        require_integer(self, "restarts_per_minute", 1, 1000)
        require_integer(self, "frame_slots", 2, 256)
        enough = self.frame_slots > self.max_in_work
        require(enough, self, "frame_slots", f"more than max_in_work, {self.max_in_work}")
        require(0.01 <= self.frame_megapixels <= 100, self, "frame_megapixels", "a number from 0.01 to 100")
