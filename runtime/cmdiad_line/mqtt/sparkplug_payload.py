"""Payloads of Sparkplug B 3.0 by protobuf.

The message type is declared here instead of in a generated file, because generated files need one version of protobuf.
It contains the fields that a station writes or reads; protobuf keeps the others of Eclipse Tahu's `sparkplug_b.proto`
as unknown fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

from cmdiad_line.mqtt.payloads import LARGEST_REQUEST, RequestError

Value = int | float | bool | str | None


class DataType(IntEnum):
    """Data types of metrics that a station uses, with their numbers in Sparkplug B."""

    INT64 = 4
    UINT64 = 8
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a payload.

    Attributes:
        name: Name.
        type: Data type.
        value: Value, or None for a metric without a value.
        time_ms: Time of the value in milliseconds since 1970, UTC.
        historical: True if a host must not take the value as the present one.
    """

    name: str
    type: DataType
    value: Value
    time_ms: int
    historical: bool = False


_FIELD_OF = {
    DataType.INT64: "long_value",
    DataType.UINT64: "long_value",
    DataType.DOUBLE: "double_value",
    DataType.BOOLEAN: "boolean_value",
    DataType.STRING: "string_value",
}
_PAYLOAD_FIELDS = (("timestamp", 1, "UINT64"), ("metrics", 2, "MESSAGE"), ("seq", 3, "UINT64"))
_METRIC_FIELDS = (
    ("name", 1, "STRING"),
    ("timestamp", 3, "UINT64"),
    ("datatype", 4, "UINT32"),
    ("is_historical", 5, "BOOL"),
    ("is_null", 7, "BOOL"),
    ("long_value", 11, "UINT64"),
    ("double_value", 13, "DOUBLE"),
    ("boolean_value", 14, "BOOL"),
    ("string_value", 15, "STRING"),
)


def encode(metrics: Iterable[Metric], *, time_ms: int, sequence: int | None) -> bytes:
    """Return a payload.

    Args:
        metrics: Metrics.
        time_ms: Time of the message in milliseconds since 1970, UTC.
        sequence: Sequence number from 0 to 255, or None for the message of a death.
    """
    payload = _payload_type()(timestamp=time_ms)
    for metric in metrics:
        entry = payload.metrics.add(name=metric.name, timestamp=metric.time_ms, datatype=metric.type)
        if metric.historical:
            entry.is_historical = True
        if metric.value is None:
            entry.is_null = True
        else:
            setattr(entry, _FIELD_OF[metric.type], metric.value)
    if sequence is not None:
        payload.seq = sequence
    return bytes(payload.SerializeToString(deterministic=True))


def names_of_true_metrics(payload: bytes) -> set[str]:
    """Return the names of the metrics whose value is true.

    Raises:
        RequestError: The payload is too long or no payload of Sparkplug B.
    """
    from google.protobuf.message import DecodeError

    if len(payload) > LARGEST_REQUEST:
        raise RequestError(f"more than {LARGEST_REQUEST} bytes")
    try:
        content = _payload_type().FromString(payload)
    except DecodeError as error:
        raise RequestError("no payload of Sparkplug B") from error
    return {metric.name for metric in content.metrics if metric.boolean_value and not metric.is_historical}


@cache
def _payload_type() -> Any:
    """Return the class of the protobuf message `Payload`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="cmdiad/sparkplug_b.proto", package="cmdiad", syntax="proto2")
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")
    for message, fields in ((payload, _PAYLOAD_FIELDS), (metric, _METRIC_FIELDS)):
        for name, number, kind in fields:
            many = kind == "MESSAGE"
            field = message.field.add(
                name=name, number=number, type=f"TYPE_{kind}", label="LABEL_REPEATED" if many else "LABEL_OPTIONAL"
            )
            if many:
                field.type_name = ".cmdiad.Payload.Metric"
            elif name.endswith("_value"):
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("cmdiad.Payload"))
