"""A part in the station, and the messages about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cmdiad_line.supervisor.readiness import LoadedRecipe
from cmdiad_line.transport.messages import (
    Acquire,
    Acquired,
    ArrayPlace,
    Correct,
    Inspect,
    Inspected,
    KeepPicture,
    Pushed,
    Record,
    Result,
    Verdict,
)

Stage = Literal["acquiring", "waiting", "inspecting", "recording", "done"]


@dataclass(kw_only=True, eq=False)
class Part:
    """A trigger and the progress of its part.

    Attributes:
        acquisition_id: Id of the part.
        channel: Name of the process that triggered.
        part_id: Id of the part from the plant, or "".
        meas_id: Id of the measurement from the plant, or "".
        time: Wall-clock time of the trigger.
        triggered_ns: Time of the trigger.
        deadline_ns: Last moment for a verdict.
        margin_ns: Time from that moment to the deadline of the plant.
        recipe_id: Id of the recipe that was active at the trigger.
        loaded: That recipe as it was loaded at the trigger, or None if it was not.
        pushed: True if the frame came with the trigger.
        stage: Present stage; "done" as soon as there is a result.
        slot: Frame slot.
        owns_slot: True if the slot must still be freed. False before the frame, and after the acquisition has ended.
        arrays: Arrays in the slot.
        sensors: Facts of the sensors.
        captured_ns: Time of the exposure.
        arrived_ns: Time at which the frame arrived.
        begun_ns: Time at which the inspection of the frame began.
        inspected: Verdict of the detector, or None.
        recording: True while a row with the verdict OK is on its way to the disk.
        result: Published result, or None.
        timings: Milliseconds, see `Result.timings_ms`.
    """

    acquisition_id: int
    channel: str
    part_id: str
    meas_id: str
    time: str
    triggered_ns: int
    deadline_ns: int
    margin_ns: int
    recipe_id: str
    loaded: LoadedRecipe | None
    pushed: bool
    stage: Stage = "acquiring"
    slot: int = -1
    owns_slot: bool = False
    arrays: tuple[ArrayPlace, ...] = ()
    sensors: dict[str, str] = field(default_factory=dict)
    captured_ns: int = 0
    arrived_ns: int = 0
    begun_ns: int = 0
    inspected: Inspected | None = None
    recording: bool = False
    result: Result | None = None
    timings: dict[str, float] = field(default_factory=dict)

    def take_frame(self, frame: Acquired | Pushed, now_ns: int) -> None:
        """Take the frame that has arrived."""
        self.slot, self.owns_slot, self.arrays = frame.slot, True, frame.arrays
        self.sensors, self.captured_ns, self.arrived_ns = frame.sensors, frame.captured_ns, now_ns
        self.stage = "waiting"
        self.stamp("acquired", now_ns)

    def is_fresh(self, max_frame_age_ns: int) -> bool:
        """Return True if the frame shows this part: captured after the trigger, or pushed soon enough.

        Args:
            max_frame_age_ns: Largest age of a pushed frame when its inspection begins.
        """
        if self.captured_ns > self.arrived_ns:
            return False  # No sensor captures in the future: the clock of the frame is not to be trusted.
        if self.pushed:
            return self.begun_ns - self.captured_ns <= max_frame_age_ns
        return self.captured_ns >= self.triggered_ns

    def stamp(self, stage: str, now_ns: int) -> None:
        """Note the time from the trigger to now."""
        self.timings[stage] = round((now_ns - self.triggered_ns) / 1e6, 3)

    def acquire(self) -> Acquire:
        """Return the order to capture the part."""
        return Acquire(
            acquisition_id=self.acquisition_id,
            triggered_ns=self.triggered_ns,
            deadline_ns=self.deadline_ns,
            modality=self.loaded.modality if self.loaded else "",
            part_id=self.part_id,
        )

    def inspect(self) -> Inspect:
        """Return the order to inspect the part."""
        return Inspect(acquisition_id=self.acquisition_id, slot=self.slot, arrays=self.arrays, recipe_id=self.recipe_id)

    def make_result(self, verdict: Verdict, reason: str, message: str) -> Result:
        """Return a result of this part."""
        return Result(
            acquisition_id=self.acquisition_id,
            verdict=verdict,
            reason=reason,
            message=message,
            score=self.inspected.score if self.inspected else None,
            threshold=self.inspected.threshold if self.inspected else None,
            part_id=self.part_id,
            meas_id=self.meas_id,
            channel=self.channel,
            recipe_id=self.recipe_id,
            bundle_digest=self.loaded.bundle_digest if self.loaded else "",
            time=self.time,
            timings_ms=dict(self.timings),
            deadline_ns=self.deadline_ns + self.margin_ns,
        )

    def row(self, result: Result) -> Record:
        """Return the row of a result."""
        engine = self.loaded.engine if self.loaded else ""
        return Record(
            result=result,
            sensors=self.sensors,
            engine=engine,
            triggered_ns=self.triggered_ns,
            map_max=self.inspected.map_max if self.inspected else None,
        )

    def correction(self, result: Result) -> Correct:
        """Return the correction of a row with OK, after NG was published."""
        return Correct(acquisition_id=self.acquisition_id, verdict="NG", reason=result.reason, message=result.message)

    def picture(self, result: Result) -> KeepPicture:
        """Return the order to keep pictures of the part."""
        return KeepPicture(slot=self.slot, arrays=self.arrays, result=result, inspected=self.inspected)
