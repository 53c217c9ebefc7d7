"""Messages of Sparkplug B as tests compare them, decoded without the code under test."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SparkplugMessage:
    """A decoded message."""

    topic: str
    qos: int
    retain: bool
    sequence: int | None
    values: dict[str, Any]
    times: set[int]
    historical: bool


def decode(message: Any) -> SparkplugMessage:
    """Return a message of a publication or of paho-mqtt, decoded by its wire format."""
    fields = _fields(message.payload)
    metrics = [dict(_fields(content)) for number, content in fields if number == 2]
    sequence = dict(fields).get(3)
    return SparkplugMessage(
        topic=message.topic,
        qos=message.qos,
        retain=bool(message.retain),
        sequence=sequence,
        values={metric[1].decode(): _value(metric) for metric in metrics},
        times={metric[3] for metric in metrics},
        historical=any(metric.get(5) for metric in metrics),
    )


def _value(metric: dict[int, Any]) -> Any:
    if metric.get(7):
        return None
    convert = {4: (11, int), 8: (11, int), 10: (13, float), 11: (14, bool), 12: (15, bytes.decode)}
    number, kind = convert[metric[4]]
    return kind(metric[number])


def _fields(content: bytes) -> list[tuple[int, Any]]:
    """Return the fields of a protobuf message as pairs of number and content."""
    fields: list[tuple[int, Any]] = []
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        number, wire = key >> 3, key & 7
        value: Any
        if wire == 0:
            value, place = _varint(content, place)
        elif wire == 1:
            (value,), place = struct.unpack_from("<d", content, place), place + 8
        else:
            assert wire == 2, "a station writes no other wire types"
            length, place = _varint(content, place)
            value, place = content[place : place + length], place + length
        fields.append((number, value))
    return fields


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
