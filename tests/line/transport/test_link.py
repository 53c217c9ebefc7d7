"""Messages between processes: round trips, refusals, closed and full links."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cmdiad_line.transport.codec import MessageError, decode, encode
from cmdiad_line.transport.link import Link, LinkClosedError, LinkFullError, link_pair
from cmdiad_line.transport.messages import Alive, ArrayPlace, KeepPicture, Ready, Trigger
from station_messages import part_inspected, part_result

RESULT = part_result(7, "NG", timings_ms={"inspected": 12.5})
INSPECTED = part_inspected(
    7,
    "NG",
    score=None,
    map=ArrayPlace(name="map", dtype="float32", shape=(4, 4), offset=64),
    square=(0, 0, 8, 8, 8),
    peak=(1, 2),
    timings_ms={"engine": 3.0},
)
PICTURE = KeepPicture(slot=1, arrays=(INSPECTED.map,), result=RESULT, inspected=INSPECTED)


@pytest.mark.parametrize("message", [Ready(), Trigger(token=1), RESULT, INSPECTED, PICTURE])
def test_message_survives_the_journey(message):
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"kind": "Unknown"}',
        b'{"kind": "Trigger"}',
        b'{"kind": "Trigger", "token": "1"}',
        b'{"kind": "Trigger", "token": true}',
        b'{"kind": "Trigger", "token": 1, "more": 2}',
        encode(RESULT).replace(b'"NG"', b'"MAYBE"'),
        encode(PICTURE).replace(b"[1, 2]", b"[1, 2, 3]"),
        encode(PICTURE).replace(b'"offset": 64', b'"offset": null'),
    ],
)
def test_damaged_message_is_refused(data):
    with pytest.raises(MessageError):
        decode(data)


def test_number_that_is_not_finite_is_refused():
    with pytest.raises(MessageError, match="Inspected"):
        encode(replace(INSPECTED, score=math.nan))


@pytest.fixture
def ends():
    here, socket = link_pair()
    there = Link(socket)
    yield here, there
    here.close()
    there.close()


def test_messages_arrive_whole_and_in_order(ends):
    here, there = ends
    assert there.receive() == []
    for token in range(3):
        here.send(Trigger(token=token))
    assert [message.token for message in there.receive()] == [0, 1, 2]


def test_messages_before_the_end_are_not_lost(ends):
    here, there = ends
    here.send(Ready())
    here.close()
    assert there.receive() == [Ready()]
    with pytest.raises(LinkClosedError):
        there.receive()
    with pytest.raises(LinkClosedError):
        there.send(Alive())


def test_full_link_does_not_block_the_sender(ends):
    here, there = ends
    sent = 0
    with pytest.raises(LinkFullError):
        while True:
            here.send(RESULT)
            sent += 1
    assert len(there.receive()) == sent
