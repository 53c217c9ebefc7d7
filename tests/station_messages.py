"""Messages of a station for tests, with a value in every field."""

from __future__ import annotations

from typing import Any

from cmdiad_line.transport.messages import Inspected, Phase, Result, StationState, Verdict

DIGEST = "ab" * 32
TIME = "2026-11-26T12:00:00.000+00:00"


def station_state(phase: Phase = "ready", **changes: Any) -> StationState:
    """Return the state of a station with the active recipe `gear`. If it is not ready, the camera is gone."""
    ready = phase == "ready"
    values: dict[str, Any] = {
        "reason": "" if ready else "camera-gone",
        "message": "" if ready else "The camera is gone.",
        "in_work": 0,
        "accepts": ready,
        "recipe_id": "gear",
        "bundle_digest": DIGEST,
        "prepared": ("gear",),
        "modality": "rgb",
        "processes": {},
        "counters": {},
    }
    return StationState(phase=phase, **{**values, **changes})


def part_result(acquisition_id: int, verdict: Verdict = "OK", **changes: Any) -> Result:
    """Return the result of a part that the PLC triggered. The reason of NG is the score."""
    values: dict[str, Any] = {
        **_judged(verdict),
        "part_id": f"part {acquisition_id}",
        "meas_id": "",
        "channel": "plc",
        "recipe_id": "gear",
        "bundle_digest": DIGEST,
        "time": TIME,
        "timings_ms": {},
        "deadline_ns": 2**62,
    }
    return Result(acquisition_id=acquisition_id, verdict=verdict, **{**values, **changes})


def part_inspected(acquisition_id: int, verdict: Verdict = "OK", **changes: Any) -> Inspected:
    """Return the verdict of the detector for a part. The reason of NG is the score."""
    values: dict[str, Any] = {
        **_judged(verdict),
        "recipe_id": "gear",
        "map_threshold": 1.0,
        "map": None,
        "square": None,
        "peak": None,
        "timings_ms": {},
    }
    return Inspected(acquisition_id=acquisition_id, verdict=verdict, **{**values, **changes})


def _judged(verdict: Verdict) -> dict[str, Any]:
    passed = verdict == "OK"
    return {
        "reason": "" if passed else "score",
        "message": "" if passed else "The score exceeds the threshold.",
        "score": 0.5 if passed else 2.0,
        "threshold": 1.0,
    }
