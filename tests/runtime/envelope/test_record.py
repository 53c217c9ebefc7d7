"""The envelope record: JSON there and back, impossible values refused, checks switched off by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cmdiad_runtime.envelope.names import ACTIONS, CHECKS, LEARNT_CHECKS, MEASURES
from cmdiad_runtime.envelope.record import Envelope, Limit
from cmdiad_runtime.reasons import REASONS
from cmdiad_runtime.support.records import NewerRecordError, RecordError

ENVELOPE = Envelope(12, 0.001, ((320, 240),), {"noise": Limit(1.0, high=3.0)}, (1.0, 0.0, 0.5, 0.25), ("colour",))


def changed(**values: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(ENVELOPE.to_json())), **values}


def test_json_there_and_back() -> None:
    assert Envelope.from_json(changed()) == ENVELOPE


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0},
        {"false_alarm_rate": 0},
        {"false_alarm_rate": 1},
        {"sizes": []},
        {"sizes": [[320]]},
        {"sizes": [[320, -1]]},
        {"sizes": [[320, True]]},
        {"sizes": 320},
        {"limits": []},
        {"limits": {"noise": 1}},
        {"limits": {"noise": {"typical": 1, "low": 2, "high": 1}}},
        {"limits": {"noise": {"typical": float("nan")}}},
        {"colour_weights": [1.0]},
        {"colour_weights": ["a"] * 4},
        {"off": "colour"},
        {"off": [3]},
    ],
)
def test_impossible_values_are_damage(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordError) as refused:
        Envelope.from_json(changed(**wrong))
    assert not isinstance(refused.value, NewerRecordError)


@pytest.mark.parametrize(
    "newer", [{"weather": 1}, {"limits": {"weather": {"typical": 1.0}}}, {"off": ["weather"]}, {"off": ["score"]}]
)
def test_unknown_names_are_of_a_newer_version(newer: dict[str, Any]) -> None:
    with pytest.raises(NewerRecordError):
        Envelope.from_json(changed(**newer))


def test_limits_hold_no_nan() -> None:
    assert Limit(1.0, high=3.0).holds(3.0)
    assert not Limit(1.0, high=3.0).holds(3.1)
    assert not Limit(1.0, low=0.5).holds(float("nan"))


def test_every_check_is_a_reason_with_a_remedy() -> None:
    assert set(CHECKS) <= set(REASONS)
    assert {measure.check for measure in MEASURES.values()} | {"image-size"} == set(LEARNT_CHECKS) == set(ACTIONS)


def test_limits_are_shown_within_what_a_measure_can_be() -> None:
    """A message expected "-7.32 of 255 to 17.5 of 255"."""
    assert MEASURES["dark"].show(-7.32) == "0 of 255"
    assert MEASURES["bright"].show(261.0) == "255 of 255"
    assert MEASURES["dark"].show(17.46) == "17.5 of 255"
    assert MEASURES["valid"].show(1.03) == "100 %"
    assert MEASURES["red_blue"].show(-7.32) == "-7.32 of 255"
