"""The acquisition process makes one trigger with one answer of each frame that arrives by itself."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_line.acquisition.process import Acquisition
from cmdiad_line.acquisition.source import Frame, FrameRefusedError
from cmdiad_line.acquisition.threads import ArrivedByItself, Connection
from cmdiad_line.station_file.recipe import Recipe
from cmdiad_line.station_file.source import FolderSource
from cmdiad_line.station_file.station import Station
from cmdiad_line.transport.frames import FramePool, pushed_owner
from cmdiad_line.transport.link import Link, link_pair
from cmdiad_line.transport.messages import Acquire, NotAcquired, Pushed, Release, Trigger, Triggered
from station_messages import part_result

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
NUMBERS = count()


class Steps:
    """An acquisition whose loop the test drives step by step."""

    def __init__(self, folder: Path, *, slots: int = 2) -> None:
        source = FolderSource(kind="folder", path=folder, name="in")
        recipe = Recipe(bundle=folder)
        station = Station(name="s", state=folder, file=folder, recipe=recipe, sources=(source,))
        self.pool = FramePool.create(folder / "frames", slots, 4096)
        self.link, other_end = link_pair()
        self.other_end = Link(other_end)
        self.acquisition = Acquisition(self.other_end, station, self.pool)
        self.acquisition._take(Connection("in", True, "", {"folder": "in"}, False))
        self.link.receive()

    def arrive(self, outcome: Frame | FrameRefusedError) -> list[Any]:
        self.acquisition._take(ArrivedByItself("in", outcome))
        return self.step()

    def step(self, *messages: Any) -> list[Any]:
        for message in messages:
            self.acquisition._handle(message)
        self.acquisition._send_arrivals()
        return self.link.receive()

    def close(self) -> None:
        self.acquisition.close()
        self.link.close()
        self.other_end.close()
        self.pool.close()


@pytest.fixture
def steps(tmp_path):
    made = Steps(tmp_path)
    yield made
    made.close()


def frame(name: str = "7.png", **changes: Any) -> Frame:
    """Return a frame with other pixels than all frames before."""
    values = {
        "arrays": {"rgb": IMAGE + np.uint8(next(NUMBERS))},
        "captured_ns": time.monotonic_ns(),
        "part_id": name,
        "facts": {"file": name},
    }
    return Frame(**{**values, **changes})


def test_frame_is_pushed_under_its_token(steps):
    arrived = frame()
    (pushed,) = steps.arrive(arrived)
    assert isinstance(pushed, Pushed)
    assert (pushed.part_id, pushed.sensors) == ("7.png", {"in.folder": "in", "in.file": "7.png"})
    arrays = steps.pool.read(pushed.slot, pushed_owner(pushed.token), pushed.arrays)
    assert np.array_equal(arrays["rgb"], arrived.arrays["rgb"])


def test_sender_gets_the_acquisition_id(steps):
    ids: list[int] = []
    (pushed,) = steps.arrive(frame(answer=ids.append))
    steps.step(Triggered(token=pushed.token + 1, acquisition_id=30, accepted=True))
    assert ids == []
    steps.step(Triggered(token=pushed.token, acquisition_id=31, accepted=False))
    assert ids == [31]


def test_refused_frame_is_a_trigger_that_is_answered_with_the_reason(steps):
    ids: list[int] = []
    refusal = FrameRefusedError("unreadable", "7.png: found a damaged file", part_id="7.png", answer=ids.append)
    (trigger,) = steps.arrive(refusal)
    assert (type(trigger), trigger.part_id) == (Trigger, "7.png")
    order = Acquire(acquisition_id=32, triggered_ns=1, deadline_ns=2, modality="rgb", part_id="7.png")
    answers = steps.step(Triggered(token=trigger.token, acquisition_id=32, accepted=True), order)
    assert answers == [NotAcquired(acquisition_id=32, reason="unreadable", message="7.png: found a damaged file")]
    assert ids == [32]


def test_trigger_of_the_plant_is_refused(steps):
    order = Acquire(acquisition_id=33, triggered_ns=1, deadline_ns=2, modality="rgb", part_id="")
    (answer,) = steps.step(order)
    assert answer.reason == "acquisition-failed"
    assert "arrive by themselves" in answer.message


def answered(trigger: Pushed | Trigger, part: int) -> list[Any]:
    """The messages of the supervisor for a frame with its result."""
    values = {"part_id": trigger.part_id, "channel": "acquisition", "score": None, "threshold": None}
    result = part_result(part, "NG", **values)
    return [Triggered(token=trigger.token, acquisition_id=part, accepted=True), result]


def test_frames_wait_for_a_free_slot(steps):
    slots = []
    for part in (1, 2):
        (pushed,) = steps.arrive(frame(str(part)))
        slots.append(pushed.slot)
        assert steps.step(*answered(pushed, part)) == []
    assert sorted(slots) == [0, 1]
    assert steps.arrive(frame("3")) == []
    (third,) = steps.step(Release(slot=slots[0]))
    assert (third.slot, third.part_id) == (slots[0], "3")


def test_frames_that_arrive_at_the_same_moment_are_no_overrun(steps):
    (first,) = steps.arrive(frame("1"))
    assert steps.arrive(FrameRefusedError("unreadable", "", part_id="2")) == []
    assert steps.arrive(frame("3")) == []
    triggered, result = answered(first, 1)
    assert steps.step(triggered) == []
    (second,) = steps.step(result)
    assert (type(second), second.part_id) == (Trigger, "2")
    (third,) = steps.step(Triggered(token=second.token, acquisition_id=2, accepted=False))
    assert third.part_id == "3"


def test_frame_that_does_not_fit_is_a_trigger_with_a_reason(steps):
    (trigger,) = steps.arrive(frame(arrays={"rgb": np.zeros((64, 64, 3), np.uint8)}))
    order = Acquire(acquisition_id=34, triggered_ns=1, deadline_ns=2, modality="rgb", part_id="")
    (answer,) = steps.step(Triggered(token=trigger.token, acquisition_id=34, accepted=True), order)
    assert answer.reason == "frames-full"


def test_frame_that_was_delivered_before_is_stale(steps):
    one = frame()
    (pushed,) = steps.arrive(one)
    steps.step(*answered(pushed, 1))
    (trigger,) = steps.arrive(one)
    assert isinstance(pushed, Pushed)
    assert isinstance(trigger, Trigger)


@pytest.mark.parametrize("between", [0, 1])
def test_picture_that_a_camera_program_sends_again_is_no_new_part(steps, between):
    first = frame("1")
    (pushed,) = steps.arrive(first)
    steps.step(*answered(pushed, 1))
    steps.step(Release(slot=pushed.slot))
    for part in range(between):
        (other,) = steps.arrive(frame("2"))
        steps.step(*answered(other, 2 + part))
    (trigger,) = steps.arrive(frame("3", arrays=first.arrays))
    assert isinstance(trigger, Trigger)
    order = Acquire(acquisition_id=9, triggered_ns=1, deadline_ns=2, modality="rgb", part_id="3")
    (answer,) = steps.step(Triggered(token=trigger.token, acquisition_id=9, accepted=True), order)
    assert answer.reason == "stale-frame"
    assert "noisy = false" in answer.message
