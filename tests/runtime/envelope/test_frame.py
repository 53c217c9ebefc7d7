"""A frozen sensor: identical frames in a row are counted for each sensor, and different frames never."""

from __future__ import annotations

import numpy as np
import pytest

from cmdiad_runtime.envelope.frame import FrameCounter, checksum, checksums_of
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.sample import Sample


def test_checksums_tell_content_type_and_shape_apart() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    others = (array + 1, array.reshape(4, 2, 3), array.astype(np.float32), array[:1])
    assert checksum(array) == checksum(array.copy()) == checksum(np.asfortranarray(array))
    assert len({checksum(array), *map(checksum, others)}) == 5


def test_a_buffer_that_the_camera_fills_again_is_a_new_frame() -> None:
    counter, buffer = FrameCounter(2), np.zeros((4, 4, 3), np.uint8)
    for i in range(5):
        buffer[:] = i
        assert counter.add("frame", {"rgb": checksum(buffer)}) is None


def test_the_third_identical_frame_in_a_row_is_reported() -> None:
    counter = FrameCounter(3)
    errors = [counter.add(str(i), {"rgb": value}) for i, value in enumerate([1, 1, 2, 2, 2, 2, 1, 2])]
    assert [error is not None for error in errors] == [False, False, False, False, True, True, False, False]
    assert errors[4] is not None
    assert errors[4].reason == "frozen"
    assert "the same image 3 times in a row" in str(errors[4])


def test_a_sample_that_cannot_be_used_ends_the_row() -> None:
    counter = FrameCounter(2)
    assert [counter.add("x", values) for values in ({"rgb": 1}, {}, {"rgb": 1})] == [None, None, None]


@pytest.mark.parametrize("frozen", ["rgb", "xyz"])
def test_one_frozen_sensor_of_two_is_enough(frozen: str) -> None:
    counter = FrameCounter(2)
    live = "xyz" if frozen == "rgb" else "rgb"
    assert counter.add("a", {frozen: 1, live: 1}) is None  # type: ignore[dict-item]
    error = counter.add("b", {frozen: 1, live: 2})  # type: ignore[dict-item]
    assert error is not None
    assert ("image" if frozen == "rgb" else "cloud") in error.found


def test_zero_reports_nothing() -> None:
    counter = FrameCounter(0)
    assert [counter.add("x", {"rgb": 1}) for _ in range(9)] == [None] * 9


def test_only_inspected_arrays_count() -> None:
    sample = Sample("both", rgb=np.zeros((4, 4, 3), np.uint8), xyz=np.ones((4, 4, 3), np.float32))
    points = {"groups": 3, "group_size": 1, "grid": 1}
    assert set(checksums_of(sample, Preprocessing("rgb"))) == {"rgb"}
    assert set(checksums_of(sample, Preprocessing("xyz", **points))) == {"xyz"}  # type: ignore[arg-type]
    assert set(checksums_of(sample, Preprocessing("rgb", rgb_mask="cloud"))) == {"rgb", "xyz"}
