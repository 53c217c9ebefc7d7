"""Reasons of the verdict NG that the station adds to those of the runtime (`cmdiad_runtime.reasons`).

Programs compare codes, people read the meaning. Codes are never renamed; new ones may be added. docs/station.md shows
what leads to each code, and docs/plc.md the number of each code on the wire.
"""

from __future__ import annotations

from typing import Literal, get_args

StationReason = Literal[
    "not-ready",
    "stopped",
    "deadline",
    "overrun",
    "camera-gone",
    "stale-frame",
    "partner-missing",
    "acquisition-failed",
    "acquisition-died",
    "inspection-died",
    "inspection-hung",
    "inspection-failed",
    "self-test",
    "wrong-frame",
    "recipe-changed",
    "frames-full",
    "not-recorded",
    "disk-full",
    "aborted",
    "station-error",
]
"""Machine-readable reason of the verdict NG that the station itself gives."""

STATION_REASONS: dict[StationReason, str] = {
    "not-ready": "The station was not ready when the trigger came: it starts, or a process is being restarted.",
    "stopped": "The station was stopped when the trigger came.",
    "deadline": "There was no complete result before the deadline.",
    "overrun": "The trigger came while too many parts were in work.",
    "camera-gone": "A sensor is disconnected.",
    "stale-frame": "The frame is older than the trigger, or was delivered before.",
    "partner-missing": "One of two sensors delivered no frame for the part.",
    "acquisition-failed": "A sensor reported an error for this part.",
    "acquisition-died": "The acquisition process ended before it delivered the frame.",
    "inspection-died": "The inspection process ended before it delivered the verdict.",
    "inspection-hung": "The inspection process did not answer and was killed.",
    "inspection-failed": "The inspection process reported an error.",
    "self-test": "The detector has not passed its self-test on this station.",
    "wrong-frame": "The frame in memory belongs to another part.",
    "recipe-changed": "The recipe was changed while the part was in work.",
    "frames-full": "There was no free memory for the frame.",
    "not-recorded": "The result could not be recorded before the deadline.",
    "disk-full": "The disk has no space left for the record of the result.",
    "aborted": "An operator or the plant aborted the job.",
    "station-error": "The station failed in a way that was not foreseen; please report this.",
}
"""Meaning of each reason."""

assert set(STATION_REASONS) == set(get_args(StationReason))
