"""Payloads and sequence of messages of Sparkplug B, against bytes of Eclipse Tahu's message type."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdiad_line.mqtt.dialect import StateRequest
from cmdiad_line.mqtt.payloads import LARGEST_REQUEST, RequestError, result_payload
from cmdiad_line.mqtt.sparkplug import REBIRTH, RESULT_METRICS, STATE_METRICS, EdgeNode
from cmdiad_line.mqtt.sparkplug_payload import DataType, Metric, encode, names_of_true_metrics
from sparkplug_messages import decode
from station_messages import part_result, station_state

TIME_MS = 1_790_000_000_000
# Written by the file that protoc generates from sparkplug_b.proto of Eclipse Tahu (pysparkplug 0.6.1).
DATA = (
    "0880d8c1a28c34120e0a01691880d8c1a28c342004580712130a01751880d8c1a28c3420085880808080802012150a01641880d8c1a28c34"
    "200a69000000000000e03f120e0a01621880d8c1a28c34200b700012120a01731880d8c1a28c34200c28017a02c3a9120e0a016e1880d8c1"
    "a28c34200c38011800"
)
DEATH = "0880d8c1a28c3412130a0562645365711880d8c1a28c34200458ff01"
COMMAND_WITH_MORE_FIELDS = (
    "0880d8c1a28c3412300a144e6f646520436f6e74726f6c2f526562697274681004200b42064204746578744a0a0a01611205080c42016270"
    "0118032201782a02797a"
)


def test_payload_has_the_bytes_of_the_official_message_type():
    values = [
        ("i", DataType.INT64, 7, False),
        ("u", DataType.UINT64, 2**40, False),
        ("d", DataType.DOUBLE, 0.5, False),
        ("b", DataType.BOOLEAN, False, False),
        ("s", DataType.STRING, "é", True),
        ("n", DataType.STRING, None, False),
    ]
    metrics = [Metric(name=n, type=t, value=v, time_ms=TIME_MS, historical=h) for n, t, v, h in values]
    assert encode(metrics, time_ms=TIME_MS, sequence=0).hex() == DATA
    birth_number = Metric(name="bdSeq", type=DataType.INT64, value=255, time_ms=TIME_MS)
    assert encode([birth_number], time_ms=TIME_MS, sequence=None).hex() == DEATH


def test_command_of_another_program_is_read():
    assert names_of_true_metrics(bytes.fromhex(COMMAND_WITH_MORE_FIELDS)) == {REBIRTH}
    assert names_of_true_metrics(bytes.fromhex(DATA)) == set()
    with pytest.raises(RequestError):
        names_of_true_metrics(b"\x12" * (LARGEST_REQUEST + 1))
    with pytest.raises(RequestError):
        names_of_true_metrics(b'{"name": "start"}')


@given(st.binary(max_size=200))
def test_any_command_is_read_or_refused(payload):
    with contextlib.suppress(RequestError):
        assert isinstance(names_of_true_metrics(payload), set)


def state_of(node, phase="ready", **changes):
    return decode(node.state(station_state(phase, **changes), waiting=3, dropped=1))


def result_of(node, *arguments, waited=False, **changes):
    return decode(node.result(result_payload("cell 1", part_result(*arguments, **changes)), waited=waited))


@pytest.fixture
def node():
    node = EdgeNode("plant", "cell-1")
    node.begin(0)
    return node


@pytest.mark.failure_mode("A host of Sparkplug B that joins or asks for a birth")
def test_birth_has_every_metric_and_no_verdict(node):
    birth = state_of(node)
    assert (birth.topic, birth.qos, birth.retain, birth.sequence) == ("spBv1.0/plant/NBIRTH/cell-1", 0, False, 0)
    names = {"bdSeq", REBIRTH} | {name for name, _, _ in (*RESULT_METRICS, *STATE_METRICS)}
    assert set(birth.values) == names
    assert birth.values["bdSeq"] == 0 and birth.values[REBIRTH] is False
    assert all(birth.values[name] is None for name, _, _ in RESULT_METRICS)
    assert birth.values["Station/Phase"] == "ready" and birth.values["Station/Results Waiting"] == 3


def test_death_belongs_to_its_birth(node):
    for attempt in (0, 1, 256):
        death = decode(node.will(attempt))
        node.begin(attempt)
        assert (death.topic, death.qos, death.sequence) == ("spBv1.0/plant/NDEATH/cell-1", 1, None)
        assert death.values == {"bdSeq": attempt % 256}
        assert state_of(node).values["bdSeq"] == attempt % 256


def test_result_has_its_time_and_number(node):
    state_of(node)
    result = result_of(node, 5, "NG")
    assert (result.topic, result.sequence) == ("spBv1.0/plant/NDATA/cell-1", 1)
    assert result.values["Result/Acquisition ID"] == 5 and result.values["Result/Verdict"] == "NG"
    assert (result.values["Result/Score"], result.values["Result/Threshold"]) == (2.0, 1.0)
    assert result.times == {1_795_694_400_000} and not result.historical
    uninspected = result_of(node, 6, "NG", score=None, threshold=None)
    assert uninspected.values["Result/Score"] is None
    assert result_of(node, 7, waited=True).historical


def test_sequence_counts_to_255_and_starts_again(node):
    state_of(node)
    numbers = [result_of(node, number).sequence for number in range(1, 301)]
    assert numbers == [number % 256 for number in range(1, 301)]


def test_verdict_is_cleared_when_the_station_is_not_ready_any_more(node):
    state_of(node)
    result_of(node, 1)
    assert "Result/Verdict" not in state_of(node).values
    assert state_of(node, "not-ready").values["Result/Verdict"] is None
    result_of(node, 2, "NG", reason="not-ready")
    assert "Result/Verdict" not in state_of(node, "not-ready").values, "the reason of this NG stays"


def test_rebirth_keeps_the_birth_number(node):
    node.begin(7)
    state_of(node)
    result_of(node, 1)
    assert node.request("spBv1.0/plant/NCMD/cell-1", bytes.fromhex(COMMAND_WITH_MORE_FIELDS)) == StateRequest()
    birth = state_of(node)
    assert "NBIRTH" in birth.topic and (birth.sequence, birth.values["bdSeq"]) == (0, 7)
    assert birth.values["Result/Verdict"] is None
    assert node.request("spBv1.0/plant/NCMD/cell-1", bytes.fromhex(DATA)) is None
    assert "NDATA" in state_of(node).topic
