"""Signals between the station and the PLC, by name. The module `registers` contains their addresses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

INPUTS: dict[str, str] = {
    "trigger_enable": "The PLC may send triggers.",
    "trigger": "Rising edge: inspect the part that is in front of the sensors now. Hold until trigger_ack.",
    "results_ack": "Rising edge: the result is taken. Hold until results_valid falls.",
    "reset": "Rising edge: forget waiting results, clear missed_acquisition and results_overrun, leave `failed`.",
    "go_online": "Rising edge: accept triggers again after stop.",
    "stop": "Rising edge: finish the parts in work, then accept no trigger.",
    "prepare_recipe": "Rising edge: load the recipe whose id is in requested_recipe next to the active one.",
    "activate_recipe": "Rising edge: inspect with the recipe whose id is in requested_recipe from the next part on.",
}
"""Signals from the PLC to the station, with the meaning of each."""

COMMANDS_OF_INPUTS: dict[str, str] = {
    "reset": "reset",
    "stop": "stop",
    "go_online": "start",
    "prepare_recipe": "prepare",
    "activate_recipe": "activate",
}
"""Command of the station (`transport.messages.COMMANDS`) that a rising edge of an input sends."""

OUTPUTS: dict[str, str] = {
    "online": "The station is ready: bundle loaded, self-test passed, sensors connected.",
    "trigger_ready": "A trigger would be accepted now.",
    "trigger_ack": "The trigger has got the id in trigger_id; exactly one result follows. Falls with trigger.",
    "busy": "At least one part is in work.",
    "exposure_complete": "The sensors have finished with the part in trigger_id: it may move.",
    "results_valid": "The result fields hold a result that is not acknowledged.",
    "job_pass": "OK for the part in result_id. False without results_valid and while the station starts or has failed.",
    "job_fail": "The part in result_id is NG.",
    "scored": "The fields score and threshold are valid: the part was inspected.",
    "repeated": "This result may have been shown before, for example before a restart.",
    "results_overrun": "A result or a trigger was refused because too many results wait. Until reset.",
    "missed_acquisition": "The last trigger took no image. Until the next accepted trigger or reset.",
    "error": "The station cannot inspect; error_code contains the reason.",
    "command_done": "The command took effect. While its input is high.",
    "command_failed": "The command was refused. While its input is high.",
    "heartbeat": "Changes at the interval heartbeat_ms; stands still if the station is dead or silent.",
}
"""Signals from the station to the PLC, with the meaning of each."""


class Offline(IntEnum):
    """Reason why `online` is false."""

    ONLINE = 0
    STARTING = 1
    STOPPED = 2
    NOT_READY = 3
    FAILED = 4
    SILENT = 5


@dataclass(frozen=True, kw_only=True)
class ShownResult:
    """Result fields as the PLC reads them.

    Attributes:
        acquisition_id: Id of the part.
        reason: Code of the reason, or "" for OK.
        score: Score, or None if the part was not inspected.
        threshold: Threshold, or None if the part was not inspected.
        recipe_id: Recipe that inspected the part.
        part_id: Id of the part from the plant, or "".
    """

    acquisition_id: int
    reason: str
    score: float | None
    threshold: float | None
    recipe_id: str
    part_id: str


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """All outputs at one moment.

    Attributes:
        bits: Names of the signals of OUTPUTS that are true.
        offline: Reason why `online` is false.
        error: Reason of `error` as a code of `cmdiad_line.reasons` or "silent"; "" without an error.
        trigger_id: Id that the last trigger has got, or 0.
        missed_count: Number of triggers since the start that took no image.
        waiting: Number of results that wait for an acknowledgement, with the shown one.
        beat: Number of changes of `heartbeat`.
        active_recipe: Active recipe, or "".
        result: Result fields, or None while `results_valid` is false.
    """

    bits: frozenset[str] = frozenset()
    offline: Offline = Offline.SILENT
    error: str = "silent"
    trigger_id: int = 0
    missed_count: int = 0
    waiting: int = 0
    beat: int = 0
    active_recipe: str = ""
    result: ShownResult | None = None

    def __post_init__(self) -> None:
        assert self.bits <= OUTPUTS.keys(), self.bits - OUTPUTS.keys()
        assert (self.result is None) == ("results_valid" not in self.bits), "result fields without results_valid"


SILENT_OUTPUTS = Outputs()
"""Outputs before the first message of the supervisor, and at the end: nothing is true."""
