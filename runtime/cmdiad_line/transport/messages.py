"""The messages between the supervisor and its processes: frozen dataclasses of plain values, one JSON object each.

Every other process has one link, to the supervisor. Times in `*_ns` are
`time.monotonic_ns()` of this machine, which all processes share; wall-clock times are ISO 8601 text in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["OK", "NG"]
Phase = Literal["starting", "ready", "stopped", "not-ready", "failed"]
"""`ready` accepts triggers (also while parts are in work); `stopped` by request; `not-ready` recovers by itself;
`failed` has given up and needs a person."""


@dataclass(frozen=True, kw_only=True)
class ArrayPlace:
    """Position of an array in a frame slot.

    Attributes:
        name: Name of the array: "rgb" (uint8 `[h, w, 3]`, RGB order), "xyz" (float32 `[h, w, 3]`, metres) or "map"
            (float32 `[size, size]`, written by the inspection).
        dtype: NumPy type, "uint8" or "float32".
        shape: Shape.
        offset: First byte in the slot's data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


# --- outside (plc, opcua, mqtt, web) and acquisition -> supervisor ---------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """Request to inspect the part that is in front of the sensors now.

    Attributes:
        token: Number of the request, chosen by the sender; returned in `Triggered`.
        part_id: Id of the part from the plant; "" if there is none.
        meas_id: Id of the measurement from the plant (OPC UA); "" if there is none.
        sent_ns: Time of the trigger at the sender, from which the deadline counts; 0 for the time of the arrival.
    """

    token: int
    part_id: str = ""
    meas_id: str = ""
    sent_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Frame that arrived by itself (watched folder, HTTP push): trigger and frame in one. From the acquisition.

    A frame that arrived but cannot be read is a `Trigger` of the acquisition, which answers `Acquire` with
    `NotAcquired`. So it gets a result too.

    Attributes:
        token: See `Trigger`. The slot's owner is `frames.pushed_owner(token)` until the supervisor adopts the frame.
        slot: Frame slot that holds the arrays.
        arrays: Arrays in the slot.
        captured_ns: Time at which the frame was complete.
        part_id: Id of the part.
        sensors: Serial numbers and other facts of the sensors, by name.
    """

    token: int
    slot: int
    arrays: tuple[ArrayPlace, ...]
    captured_ns: int
    part_id: str = ""
    sensors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Command:
    """Request of a person or of the plant other than a trigger. Answered by `Answer` with the same token.

    Attributes:
        token: Number of the request, chosen by the sender.
        name: One of COMMANDS.
        user: Name of the account, or of the channel ("plc", "opcua").
        arguments: Arguments as JSON values; see COMMANDS.
    """

    token: int
    name: str
    user: str
    arguments: dict[str, Any] = field(default_factory=dict)


COMMANDS: dict[str, str] = {
    "start": "Accept triggers.",
    "stop": "Finish the parts in work, then accept no trigger until `start`.",
    "abort": "Answer the parts in work with NG `aborted`, then as `stop`.",
    "reset": "Leave the phase `failed`: start the processes that gave up again.",
    "prepare": "Load a recipe next to the active one. Arguments: recipe_id.",
    "unprepare": "Unload a recipe that is not active. Arguments: recipe_id.",
    "activate": "Inspect with this recipe from the next part on; prepare it first if needed. Arguments: recipe_id.",
    "rollback": "Activate the recipe that was active before.",
    "threshold": "Change the threshold of a recipe. Arguments: recipe_id, score (raw score; null: the bundle's).",
    "judge": "Store a person's judgement of a part. Arguments: acquisition_id, judgement (good, defect, unsure), note.",
    "override": "Store that a person overrode a verdict. Arguments: acquisition_id, verdict, note.",
    "note": "Append an entry to the audit log. Arguments: action, subject, details.",
}
"""Commands, with the effect and the arguments of each."""


@dataclass(frozen=True, kw_only=True)
class Acknowledge:
    """The plant has taken a result. Sent by the PLC process.

    Attributes:
        acquisition_id: Id of the result.
    """

    acquisition_id: int


# --- supervisor -> outside -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Triggered:
    """Answer to a trigger. Every trigger gets an id and exactly one `Result`, also one that cannot be served.

    Attributes:
        token: Token of the request.
        acquisition_id: Id of the part, 1 to 2^31 - 1, unique for the life of the station's records.
        accepted: False if the part was answered with NG at once (`not-ready`, `stopped`, `overrun`).
    """

    token: int
    acquisition_id: int
    accepted: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """Published result of one trigger.

    Attributes:
        acquisition_id: Id of the part.
        verdict: "OK" or "NG".
        reason: Code of `cmdiad_runtime.reasons` or `cmdiad_line.reasons`; "" for OK.
        message: The reason as one line for people; "" for OK.
        score: Score that decided, or None if the part was not inspected.
        threshold: Score above which a part is NG, or None if the part was not inspected.
        part_id: Id of the part from the plant, or "".
        meas_id: Id of the measurement from the plant, or "".
        channel: Name of the process that triggered: "plc", "opcua", "mqtt", "web" or "acquisition".
        recipe_id: Active recipe, or "" without one.
        bundle_digest: SHA-256 of the manifest of the bundle, or "".
        time: Wall-clock time of the trigger.
        timings_ms: Milliseconds from the trigger to the end of each stage: "acquired", "inspected", "recorded",
            "published". In addition the durations "preprocess", "engine", "map", and "detector" for the whole
            inspection.
        replayed: True for a result that is sent again to a process that was restarted.
        deadline_ns: Time after which a process must not show the plant OK for the first time.
    """

    acquisition_id: int
    verdict: Verdict
    reason: str
    message: str
    score: float | None
    threshold: float | None
    part_id: str
    meas_id: str
    channel: str
    recipe_id: str
    bundle_digest: str
    time: str
    timings_ms: dict[str, float]
    replayed: bool = False
    deadline_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class AcquisitionDone:
    """The sensors have finished with a part, with or without a frame, so it may move. Sent to every outside process.

    Attributes:
        acquisition_id: Id of the part.
    """

    acquisition_id: int


@dataclass(frozen=True, kw_only=True)
class StationState:
    """State of the station; sent to every outside process at its start and at every change.

    Attributes:
        phase: Phase of the station.
        reason: Reason why the phase is not `ready`, as a code of `cmdiad_line.reasons`; "" if ready.
        message: The reason as one line for people.
        in_work: Number of parts in work.
        accepts: True if a trigger would be accepted now.
        recipe_id: Active recipe, or "".
        bundle_digest: SHA-256 of the manifest of the active bundle, or "".
        prepared: Ids of the recipes that are loaded and self-tested.
        modality: Sensors that the active recipe needs: "rgb", "xyz", "both" or "".
        processes: State of each process by name: "running", "starting" or "dead".
        counters: Numbers since the start: "triggers", "ok", "ng", "missed", "late", "restarts", "reconnects",
            "pictures_skipped", "rows_lost".
    """

    phase: Phase
    reason: str
    message: str
    in_work: int
    accepts: bool
    recipe_id: str
    bundle_digest: str
    prepared: tuple[str, ...]
    modality: str
    processes: dict[str, str]
    counters: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer to a `Command`.

    Attributes:
        token: Token of the command.
        done: True if the command took effect.
        message: One line for people: the effect, or the reason of the refusal.
    """

    token: int
    done: bool
    message: str


# --- supervisor <-> acquisition --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Acquire:
    """Order to capture a frame now.

    Attributes:
        acquisition_id: Id of the part.
        triggered_ns: Time of the trigger. An older frame is stale.
        deadline_ns: Time of the deadline.
        modality: Sensors to capture: "rgb", "xyz" or "both".
        part_id: Id of the part from the plant, or "".
    """

    acquisition_id: int
    triggered_ns: int
    deadline_ns: int
    modality: str
    part_id: str


@dataclass(frozen=True, kw_only=True)
class Acquired:
    """Frame of a part. The slot belongs to the supervisor until it sends `Release`.

    Attributes:
        acquisition_id: Id of the part.
        slot: Frame slot.
        arrays: Arrays in the slot.
        captured_ns: Time of the exposure, or of the arrival if the sensor has no clock.
        sensors: Serial numbers, frame numbers and temperatures of the sensors, by name.
    """

    acquisition_id: int
    slot: int
    arrays: tuple[ArrayPlace, ...]
    captured_ns: int
    sensors: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class NotAcquired:
    """No frame for a part.

    Attributes:
        acquisition_id: Id of the part.
        reason: Code of `cmdiad_line.reasons` or `cmdiad_runtime.reasons`.
        message: One line for people.
    """

    acquisition_id: int
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class SourcesState:
    """State of the sensors; from the acquisition at its start and at every change.

    Attributes:
        connected: True if every sensor is connected.
        message: One line for people: names of the sensors, or the one that is missing.
        reconnects: Number of reconnections since the start.
    """

    connected: bool
    message: str
    reconnects: int


@dataclass(frozen=True, kw_only=True)
class Release:
    """Order to free a frame slot.

    Attributes:
        slot: Frame slot.
    """

    slot: int


# --- supervisor <-> inspection ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Load:
    """Order to open a bundle and to run its self-test. Answered by `Loaded` or `NotLoaded`.

    Attributes:
        recipe_id: Id of the recipe.
        path: Folder of the bundle.
        bundle_digest: SHA-256 that the manifest must have.
        engine: Name of the engine.
        threshold: Raw score threshold of the recipe, or None for the bundle's.
        public_key: Public key file that must verify the bundle's signature, or "".
    """

    recipe_id: str
    path: str
    bundle_digest: str
    engine: str
    threshold: float | None
    public_key: str


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The recipe is loaded and has passed its self-test in this process.

    Attributes:
        recipe_id: Id of the recipe.
        modality: Sensors that the bundle needs.
        engine: Library, version and device of the engine.
        threshold: Threshold in use.
        milliseconds: Duration of loading and self-test.
    """

    recipe_id: str
    modality: str
    engine: str
    threshold: float
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class NotLoaded:
    """The recipe could not be loaded, or failed its self-test.

    Attributes:
        recipe_id: Id of the recipe.
        message: One line for people.
    """

    recipe_id: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Unload:
    """Order to close the bundle of a recipe.

    Attributes:
        recipe_id: Id of the recipe.
    """

    recipe_id: str


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Order to inspect a frame.

    Attributes:
        acquisition_id: Id of the part, which must be in the slot's header too.
        slot: Frame slot.
        arrays: Arrays in the slot.
        recipe_id: Loaded recipe to inspect with.
    """

    acquisition_id: int
    slot: int
    arrays: tuple[ArrayPlace, ...]
    recipe_id: str


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """Verdict of the detector for a frame.

    Attributes:
        acquisition_id: Id of the part.
        recipe_id: Recipe that was used.
        verdict: "OK" or "NG".
        reason: Code of the reason, or "" for OK.
        message: One line for people, or "" for OK.
        score: Score, or None if the sample was not inspected.
        threshold: Score threshold in use.
        map_threshold: Map threshold in use, for pictures.
        map: Place of the anomaly map in the slot, or None.
        square: Top, left, side, height and width of the map's square over the sensor's image
            (`cmdiad_runtime.preprocess.views.place.PaddedSquare`), or None.
        peak: Row and column of the largest map value in the sensor's image, or None.
        timings_ms: Durations of "preprocess", "engine" and "map", and of the whole inspection as "detector".
        map_max: Largest map value, or None if the sample was not inspected.
    """

    acquisition_id: int
    recipe_id: str
    verdict: Verdict
    reason: str
    message: str
    score: float | None
    threshold: float
    map_threshold: float
    map: ArrayPlace | None
    square: tuple[int, ...] | None
    peak: tuple[int, int] | None
    timings_ms: dict[str, float]
    map_max: float | None = None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Order to inspect a golden sample of the active bundle, to prove that the engine still works.

    Attributes:
        token: Number of the probe.
        recipe_id: Loaded recipe.
    """

    token: int
    recipe_id: str


@dataclass(frozen=True, kw_only=True)
class Proved:
    """Result of a probe.

    Attributes:
        token: Number of the probe.
        passed: True if score and map are within the tolerance of the certificate.
        message: One line for people.
    """

    token: int
    passed: bool
    message: str


# --- supervisor <-> records ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Opened:
    """First message of the records process: the database is open and its last rows have been verified.

    Attributes:
        next_id: First acquisition id that may be used. Ids up to `reserved` are reserved durably.
        reserved: Last reserved id.
    """

    next_id: int
    reserved: int


@dataclass(frozen=True, kw_only=True)
class Reserve:
    """Order to reserve more acquisition ids durably; answered by `Opened`."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Order to store one row durably. Answered by `Recorded` or `NotRecorded`.

    A row that is stored already is `Recorded` again. An NG for a part whose stored row says OK becomes a correction.
    While nothing can be stored, a row with OK is `NotRecorded` at once, and a row with NG waits for its answer.

    Attributes:
        result: Result as it is published if the row is stored in time.
        sensors: Facts of the sensors.
        engine: Library, version and device of the engine, or "".
        triggered_ns: Time of the trigger.
        map_max: Largest map value, or None if the part was not inspected. Candidates calibrate the map with it.
    """

    result: Result
    sensors: dict[str, str]
    engine: str
    triggered_ns: int
    map_max: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The row is on the disk.

    Attributes:
        acquisition_id: Id of the part.
    """

    acquisition_id: int


@dataclass(frozen=True, kw_only=True)
class NotRecorded:
    """The row could not be stored.

    Attributes:
        acquisition_id: Id of the part.
        reason: "disk-full" or "not-recorded".
        message: One line for people.
    """

    acquisition_id: int
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Correct:
    """Order to store that another verdict was published than the recorded one. Not answered.

    Attributes:
        acquisition_id: Id of the part.
        verdict: Published verdict, always "NG".
        reason: Published reason.
        message: One line for people.
    """

    acquisition_id: int
    verdict: Verdict
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class KeepPicture:
    """Order to store pictures of a part if the rule for pictures says so. Answered by `PictureDone`.

    Attributes:
        slot: Frame slot, which stays reserved until the answer.
        arrays: Arrays in the slot.
        result: Published result.
        inspected: Verdict of the detector, or None if the part was not inspected.
    """

    slot: int
    arrays: tuple[ArrayPlace, ...]
    result: Result
    inspected: Inspected | None


@dataclass(frozen=True, kw_only=True)
class PictureDone:
    """The slot of a picture is not needed any more.

    Attributes:
        slot: Frame slot.
        kept: True if the pictures were stored.
        skipped: True if the rule asked for the pictures, and they were not stored: too many wait, or no room is left.
    """

    slot: int
    kept: bool
    skipped: bool = False


# --- every process ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ready:
    """First message of a process: it has started and takes orders."""


@dataclass(frozen=True, kw_only=True)
class Alive:
    """Sign of life, at least every half second, from the loop that does the work.

    The supervisor sends it to the outside processes too: the PLC's OK bit is false without a live supervisor.
    """


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The process cannot do its work and ends.

    Attributes:
        message: One line for people, with the remedy.
    """

    message: str


@dataclass(frozen=True, kw_only=True)
class End:
    """Order to end within a second. A closed link means the same."""


Message = (
    Trigger
    | Pushed
    | Command
    | Acknowledge
    | Triggered
    | Result
    | AcquisitionDone
    | StationState
    | Answer
    | Acquire
    | Acquired
    | NotAcquired
    | SourcesState
    | Release
    | Load
    | Loaded
    | NotLoaded
    | Unload
    | Inspect
    | Inspected
    | Probe
    | Proved
    | Opened
    | Reserve
    | Record
    | Recorded
    | NotRecorded
    | Correct
    | KeepPicture
    | PictureDone
    | Ready
    | Alive
    | Failed
    | End
)
"""Any message."""
