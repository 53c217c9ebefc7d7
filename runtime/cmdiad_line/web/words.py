"""Titles of reasons, phases, stages and counters on the pages, and the text of times and scores."""

from __future__ import annotations

from datetime import datetime

from cmdiad_line.reasons import STATION_REASONS
from cmdiad_line.records.stored import StoredResult
from cmdiad_line.transport.messages import Phase, Result
from cmdiad_runtime.reasons import REASONS

TITLES: dict[str, str] = {
    "score": "Defect",
    "outside": "Something unusual next to the part",
    "missing-file": "No picture",
    "missing-modality": "A sensor is missing",
    "not-a-file": "No picture",
    "unreadable": "Picture damaged",
    "unsupported": "Picture of the wrong kind",
    "too-large": "Picture too large",
    "timeout": "Picture came too late",
    "out-of-memory": "Too little memory",
    "wrong-array": "Picture of the wrong kind",
    "size-mismatch": "Image and cloud differ in size",
    "no-contrast": "Picture without contrast",
    "no-points": "No 3D points",
    "no-part": "No part seen",
    "part-count": "Wrong number of parts",
    "part-area": "Part of unusual size",
    "part-position": "Part in the wrong place",
    "image-size": "Picture of the wrong size",
    "colour": "Unusual colours",
    "exposure": "Too dark or too bright",
    "sharpness": "Not sharp",
    "noise": "Noisy picture or 3D points",
    "valid-points": "Too few 3D points",
    "point-pitch": "3D points too far apart",
    "plane-distance": "Wrong distance to the table",
    "holes": "Holes or loose material",
    "part-height": "Part of unusual height",
    "axes": "3D axes swapped",
    "frozen": "Camera repeats a picture",
    "bad-output": "Detector gave no number",
    "no-answer": "Server did not answer",
    "internal": "Error in the detector",
    "not-ready": "Station was not ready",
    "stopped": "Station was stopped",
    "deadline": "No result in time",
    "overrun": "Parts came too fast",
    "camera-gone": "Camera disconnected",
    "stale-frame": "Old picture",
    "partner-missing": "One of two pictures is missing",
    "acquisition-failed": "Camera error",
    "acquisition-died": "Camera process ended",
    "inspection-died": "Inspection process ended",
    "inspection-hung": "Inspection did not answer",
    "inspection-failed": "Inspection error",
    "self-test": "Self-test failed",
    "wrong-frame": "Picture of another part",
    "recipe-changed": "Recipe was changed",
    "frames-full": "No memory for the picture",
    "not-recorded": "Result was not recorded",
    "disk-full": "Disk full",
    "aborted": "Aborted",
    "station-error": "Error in the station",
}
"""Title of each reason of `cmdiad_runtime.reasons` and `cmdiad_line.reasons`."""

PHASES: dict[Phase, str] = {
    "starting": "Starting",
    "ready": "Ready",
    "stopped": "Stopped",
    "not-ready": "Not ready",
    "failed": "Failed",
}
"""Title of each phase."""

STAGES = {
    "acquired": "Picture",
    "inspected": "Inspection",
    "preprocess": "of which preparation",
    "engine": "of which detector",
    "map": "of which map",
    "total": "Trigger to verdict",
}
"""Title of each stage of `cmdiad_line.records.statistics.stage_latencies` on the engineer page.

A row is written before its result is published, so the rows say nothing about recording and publication.
"""

COUNTERS = {
    "triggers": "Triggers",
    "ok": "OK",
    "ng": "NG",
    "missed": "Missed triggers",
    "late": "Late answers",
    "pictures_skipped": "Pictures skipped",
    "rows_lost": "Results not recorded",
    "restarts": "Restarts of processes",
    "reconnects": "Reconnects of sensors",
}
"""Title of each counter of the station."""

_MEANINGS = {str(code): text for table in (REASONS, STATION_REASONS) for code, text in table.items()}


def title(reason: str) -> str:
    """Return the title of a reason; an unknown code is shown as it is."""
    return TITLES.get(reason, reason)


def meaning(reason: str) -> str:
    """Return the meaning of a reason as a sentence, or "" for an unknown code."""
    return _MEANINGS.get(reason, "")


def sentence(text: str) -> str:
    """Return a message as a sentence, with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def local_time(time: str) -> str:
    """Return a time in UTC, ISO 8601, as local date and time; another text is returned as it is."""
    try:
        moment = datetime.fromisoformat(time.replace("Z", "+00:00"))
    except ValueError:
        return time
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def part_name(result: Result | StoredResult) -> str:
    """Return the id of a part from the plant, or its acquisition id."""
    return result.part_id or f"Part {result.acquisition_id}"


def score_ratio(result: Result | StoredResult) -> str:
    """Return the score of a result divided by its threshold, such as "0.83", or "" if the part was not inspected."""
    score, threshold = result.score, result.threshold
    return f"{score / threshold:.2f}" if score is not None and threshold else ""


def relative_score(result: Result | StoredResult) -> str:
    """Return the score of a result relative to its threshold as text, or a dash if the part was not inspected."""
    ratio = score_ratio(result)
    return f"{ratio} × threshold" if ratio else "–"
