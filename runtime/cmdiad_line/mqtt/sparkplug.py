"""The station as an edge node of Sparkplug B 3.0: births, deaths, data, and the request for a new birth.

A host shows the last value of a metric until it receives another one. An old verdict must not stay on its screen, so a
birth contains no result, and the result is cleared when the station is not ready any more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cmdiad_line.mqtt.dialect import Publication, StateRequest
from cmdiad_line.mqtt.payloads import Request
from cmdiad_line.mqtt.sparkplug_payload import DataType, Metric, encode, names_of_true_metrics
from cmdiad_line.transport.messages import StationState

REBIRTH = "Node Control/Rebirth"
"""Metric by which a host requests a new birth."""
RESULT_METRICS = (
    ("Result/Acquisition ID", DataType.UINT64, "acquisition_id"),
    ("Result/Verdict", DataType.STRING, "verdict"),
    ("Result/Reason", DataType.STRING, "reason"),
    ("Result/Message", DataType.STRING, "message"),
    ("Result/Score", DataType.DOUBLE, "score"),
    ("Result/Threshold", DataType.DOUBLE, "threshold"),
    ("Result/Part ID", DataType.STRING, "part_id"),
    ("Result/Measurement ID", DataType.STRING, "meas_id"),
    ("Result/Channel", DataType.STRING, "channel"),
    ("Result/Recipe", DataType.STRING, "recipe_id"),
    ("Result/Bundle Digest", DataType.STRING, "bundle_digest"),
)
"""Name, type and field of the JSON form of each metric of a result."""
STATE_METRICS = (
    ("Station/Phase", DataType.STRING, "phase"),
    ("Station/Reason", DataType.STRING, "reason"),
    ("Station/Message", DataType.STRING, "message"),
    ("Station/Accepts", DataType.BOOLEAN, "accepts"),
    ("Station/Parts in Work", DataType.UINT64, "in_work"),
    ("Station/Recipe", DataType.STRING, "recipe_id"),
    ("Station/Bundle Digest", DataType.STRING, "bundle_digest"),
    ("Station/Results Waiting", DataType.UINT64, "waiting"),
    ("Station/Results Dropped", DataType.UINT64, "dropped"),
)
"""Name, type and field of the JSON form of each metric of the state."""

_NUMBERS = 256  # Sequence numbers and numbers of births are counted modulo this.


class EdgeNode:
    """Messages as Sparkplug B.

    Args:
        group: Id of the group.
        node: Id of the edge node.

    Attributes:
        subscriptions: Topics to receive.
        resends: False, because Sparkplug B prescribes QoS 0 for data.
    """

    resends = False

    def __init__(self, group: str, node: str) -> None:
        self._group = group
        self._node = node
        self._attempt = 0
        self._sequence = -1  # Negative before the birth.
        self._ready = False
        self.subscriptions: tuple[str, ...] = (self._topic("NCMD"),)

    def will(self, attempt: int) -> Publication:
        """Return the death that belongs to the birth of the same attempt."""
        now = _now_ms()
        return Publication(self._topic("NDEATH"), encode([_birth_number(attempt, now)], time_ms=now, sequence=None))

    def begin(self, attempt: int) -> None:
        """Make the next state a birth."""
        self._attempt = attempt
        self._sequence = -1

    def state(self, state: StationState, *, waiting: int, dropped: int) -> Publication:
        """Return the birth, or the state as data."""
        now = _now_ms()
        born, was_ready, self._ready = self._sequence >= 0, self._ready, state.phase == "ready"
        metrics = _metrics(STATE_METRICS, {**vars(state), "waiting": waiting, "dropped": dropped}, now)
        if not born or (was_ready and not self._ready):
            metrics += _metrics(RESULT_METRICS, {}, now)
        if born:
            return self._publication("NDATA", metrics, now)
        rebirth = Metric(name=REBIRTH, type=DataType.BOOLEAN, value=False, time_ms=now)
        return self._publication("NBIRTH", [_birth_number(self._attempt, now), rebirth, *metrics], now)

    def result(self, stored: bytes, *, waited: bool) -> Publication:
        """Return a result as data with the time of its trigger."""
        fields = json.loads(stored)
        triggered = int(datetime.fromisoformat(fields["time"].replace("Z", "+00:00")).timestamp() * 1000)
        return self._publication("NDATA", _metrics(RESULT_METRICS, fields, triggered, historical=waited), _now_ms())

    def answer(self, request: str, *, done: bool, message: str, acquisition_id: int) -> Publication | None:
        """Return None: an edge node does not answer."""
        return None

    def request(self, topic: str, payload: bytes) -> Request | StateRequest | None:
        """Prepare a new birth if the host requests one. The station has no other commands.

        Raises:
            RequestError: The payload has another form.
        """
        if REBIRTH not in names_of_true_metrics(payload):
            return None
        self.begin(self._attempt)
        return StateRequest()

    def _topic(self, kind: str) -> str:
        return f"spBv1.0/{self._group}/{kind}/{self._node}"

    def _publication(self, kind: str, metrics: list[Metric], time_ms: int) -> Publication:
        """Return a message with the next sequence number; a birth has the number 0."""
        self._sequence = (self._sequence + 1) % _NUMBERS
        return Publication(self._topic(kind), encode(metrics, time_ms=time_ms, sequence=self._sequence), qos=0)


def _metrics(
    table: tuple[tuple[str, DataType, str], ...], fields: Mapping[str, Any], time_ms: int, *, historical: bool = False
) -> list[Metric]:
    """Return the metrics of a table; a missing field has no value."""
    return [
        Metric(name=name, type=kind, value=fields.get(field), time_ms=time_ms, historical=historical)
        for name, kind, field in table
    ]


def _birth_number(attempt: int, time_ms: int) -> Metric:
    """Return the metric that connects a death with its birth."""
    return Metric(name="bdSeq", type=DataType.INT64, value=attempt % _NUMBERS, time_ms=time_ms)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
