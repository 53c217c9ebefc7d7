"""Only frames of the same part and of the same moment are joined, whatever the sensors deliver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from cmdiad_line.acquisition.freshness import REMEMBERED, Freshness, StaleFrameError
from cmdiad_line.acquisition.pairing import Failure, Paired, Pairing
from cmdiad_line.acquisition.source import Frame
from cmdiad_line.transport.messages import Acquire

RGB = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
XYZ = np.ones((4, 4, 3), np.float32)
ARRAYS: dict[str, Any] = {"rgb": RGB, "xyz": XYZ}


def frame(name: str = "rgb", *, part: int = 7, time_ns: int = 100, number: int | None = None, shift: int = 0) -> Frame:
    array = ARRAYS[name] + np.asarray(shift, ARRAYS[name].dtype)
    return Frame(arrays={name: array}, captured_ns=time_ns, acquisition_id=part, number=number)


def pairing(*needed: str, modality: str = "rgb") -> Pairing:
    order = Acquire(acquisition_id=7, triggered_ns=0, deadline_ns=1000, modality=modality, part_id="")
    return Pairing(order=order, needed=needed, skew_ns=10)


@given(
    parts=some.tuples(some.integers(6, 8), some.integers(6, 8)),
    times=some.tuples(some.integers(90, 120), some.integers(90, 120)),
    swapped=some.booleans(),
    absent=some.sets(some.sampled_from(["rgb", "xyz"])),
)
def test_only_frames_of_one_part_and_moment_are_joined(parts, times, swapped, absent):
    whole = pairing("rgb", "xyz", modality="both")
    for name, part, time_ns in zip(whole.needed, parts, times, strict=True):
        if name not in absent:
            content = {"rgb": "xyz", "xyz": "rgb"}[name] if swapped and not absent else name
            whole.frames[name] = frame(content, part=part, time_ns=time_ns)
    outcome = whole.finish()
    good = not absent and parts == (7, 7) and abs(times[0] - times[1]) <= 10
    assert isinstance(outcome, Paired) == good
    if isinstance(outcome, Paired):
        assert outcome.captured_ns == min(times)
        assert outcome.arrays["rgb"] is not None
        assert {name: array.dtype for name, array in outcome.arrays.items()} == {
            name: array.dtype for name, array in ARRAYS.items()
        }


@pytest.mark.parametrize(
    "array",
    [RGB.astype(np.float32), RGB[..., 0], RGB[..., :2], RGB[:0], RGB.reshape(1, 4, 4, 3)],
)
def test_array_of_a_wrong_type_is_refused(array):
    whole = pairing("rgb")
    whole.frames["rgb"] = Frame(arrays={"rgb": array}, captured_ns=1, acquisition_id=7)
    outcome = whole.finish()
    assert isinstance(outcome, Failure)
    assert outcome.reason == "wrong-array"


def test_failure_of_a_sensor_comes_before_silence():
    whole = pairing("rgb", "xyz", modality="both")
    whole.failures["xyz"] = Failure(reason="camera-gone", message="xyz: unplugged")
    assert whole.decided
    outcome = whole.finish()
    assert outcome == Failure(reason="camera-gone", message="xyz: unplugged")


def test_facts_have_the_name_of_the_sensor():
    whole = pairing("top")
    whole.frames["top"] = Frame(
        arrays={"rgb": RGB}, captured_ns=1, acquisition_id=7, number=4, facts={"temperature": "25"}
    )
    outcome = whole.finish()
    assert isinstance(outcome, Paired)
    assert outcome.sensors == {"top.temperature": "25", "top.frame": "4"}


def test_fresh_frames():
    fresh = Freshness("camera", noisy=True)
    for index in range(3):
        fresh.check(frame(time_ns=100 + index, number=index, shift=index), 100)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (frame(time_ns=199, number=6, shift=1), "before the trigger"),
        (frame(time_ns=200, number=6, shift=1), "not younger"),
        (frame(time_ns=300, number=5, shift=1), "comes after 5"),
        (frame(time_ns=300, number=4, shift=1), "comes after 5"),
        (frame(time_ns=300, number=6), "same bytes.*noisy = false"),
    ],
)
def test_stale_frames(second, words):
    fresh = Freshness("camera", noisy=True)
    fresh.check(frame(time_ns=200, number=5), 200)
    with pytest.raises(StaleFrameError, match=words):
        fresh.check(second, 200)


def test_buffers_of_a_driver_that_come_again_are_stale():
    fresh = Freshness("camera", noisy=True)
    for index in range(REMEMBERED):
        fresh.check(frame(time_ns=200 + index, shift=index), 200)
    for index in range(REMEMBERED):
        with pytest.raises(StaleFrameError, match="same bytes"):
            fresh.check(frame(time_ns=300 + index, shift=index), 300)


def test_identical_bytes_are_accepted_from_a_source_without_noise():
    fresh = Freshness("generator", noisy=False)
    fresh.check(frame(time_ns=200), 200)
    fresh.check(frame(time_ns=300), 300)


@pytest.mark.parametrize("last", [0xFFFF, 0xFFFFFFFF])
def test_counter_of_a_camera_starts_again(last):
    fresh = Freshness("camera", noisy=False)
    fresh.check(frame(time_ns=200, number=last), 0)
    fresh.check(frame(time_ns=300, number=1), 0)
    with pytest.raises(StaleFrameError):
        fresh.check(frame(time_ns=400, number=0), 0)


def test_counter_of_a_sensor_that_was_connected_again_may_start_again():
    fresh = Freshness("camera", noisy=False)
    fresh.check(frame(time_ns=200, number=9), 0)
    fresh.reset()
    fresh.check(frame(time_ns=300, number=1), 0)
    with pytest.raises(StaleFrameError, match="not younger"):
        fresh.check(frame(time_ns=300, number=2), 0)
