"""The facts of one recorded part, as titles and texts with units."""

from __future__ import annotations

from cmdiad_line.records.stored import StoredResult
from cmdiad_line.web.words import local_time, relative_score

CHANNELS = {
    "plc": "PLC",
    "opcua": "OPC UA",
    "mqtt": "MQTT",
    "web": "REST",
    "acquisition": "Sensor",
}
"""Title of each process that triggers."""
TIMES = {
    "acquired": "Picture after",
    "preprocess": "Preparation",
    "engine": "Detector",
    "map": "Map",
    "published": "Verdict after",
}
"""Title of each time of a recorded part. The row is written before the publication, so `published` is the verdict."""
SENSOR_FACTS = {
    "serial": "serial number {}",
    "device": "device {}",
    "firmware": "firmware {}",
    "frame": "frame {}",
    "file": "file {}",
    "folder": "folder {}",
    "temperature": "{} °C",
}
"""Text of each fact that the sensors of this package report."""


def facts_of(result: StoredResult) -> list[tuple[str, str]]:
    """Return the facts of a part as pairs of title and text."""
    facts = [
        ("Id", str(result.acquisition_id)),
        ("Time", local_time(result.time)),
        ("Score", relative_score(result)),
        ("Recipe", result.recipe_id),
        ("Bundle", result.bundle_digest[:16]),
        ("Triggered by", CHANNELS.get(result.channel, result.channel)),
        ("Measurement", result.meas_id),
        *_sensors(result.sensors),
        *((name, f"{result.timings_ms[stage]:.1f} ms") for stage, name in TIMES.items() if stage in result.timings_ms),
        ("Engine", result.engine),
    ]
    return [(name, text) for name, text in facts if text]


def _sensors(facts: dict[str, str]) -> list[tuple[str, str]]:
    """Return the facts of each sensor in one line; the keys are "SENSOR.FACT"."""
    lines: dict[str, list[tuple[int, str]]] = {}
    order = list(SENSOR_FACTS)
    for key, value in facts.items():
        sensor, _, fact = key.rpartition(".")
        place = order.index(fact) if fact in order else len(order)
        text = SENSOR_FACTS[fact].replace("{}", value) if fact in order else f"{fact} {value}"
        lines.setdefault(f"Sensor {sensor}".rstrip(), []).append((place, text))
    return [(sensor, ", ".join(text for _, text in sorted(texts))) for sensor, texts in lines.items()]
