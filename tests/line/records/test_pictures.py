"""The rule for pictures, their files, and the ring that never fills the disk."""

from __future__ import annotations

import datetime
import gc
import json
import select
import threading
import tracemalloc
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cmdiad_line.records import picture_files, picture_ring
from cmdiad_line.records.picture_files import draw, size_of, write_pictures
from cmdiad_line.records.picture_places import part_folder, pictures_folder
from cmdiad_line.records.picture_ring import PictureRing
from cmdiad_line.records.picture_rule import PictureRule
from cmdiad_line.records.pictures import PictureKeeper
from cmdiad_line.station_file.pictures import Pictures
from cmdiad_line.transport.frames import WrongFrameError
from cmdiad_line.transport.messages import ArrayPlace, KeepPicture, PictureDone
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.readers.npz import read_npz
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.records import RecordError
from patience import LIMIT_S
from record_rows import a_record, a_rejected
from station_messages import TIME, part_inspected

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (30, 40, 3), dtype=np.uint8)
CLOUD = RANDOM.random((30, 40, 3), dtype=np.float32) + 0.2
MAP = RANDOM.random((16, 16), dtype=np.float32)
TODAY = datetime.date(2026, 11, 26)
ANYWHERE = Pictures(least_free_gigabytes=0)
INSPECTED = part_inspected(
    1,
    "NG",
    message="No.",
    score=0.99,
    threshold=0.5,
    map_threshold=0.5,
    map=ArrayPlace(name="map", dtype="float32", shape=(16, 16), offset=0),
    square=(5, 0, 40, 30, 40),
)


def kept(rule, *records):
    return [rule.keeps(record.result) for record in records]


def test_every_rejected_part_is_kept():
    rule = PictureRule(Pictures(one_in=0, near_share=0))
    assert kept(rule, a_rejected(1), a_rejected(2, "deadline", score=None), a_record(3)) == [True, True, False]
    assert kept(PictureRule(Pictures(ng=False, one_in=0)), a_rejected(1)) == [False]


def test_parts_near_the_threshold_are_kept():
    rule = PictureRule(Pictures(one_in=0, near_share=0.1))
    scores = [0.0, 0.89, 0.9, 1.0]
    assert kept(rule, *(a_record(1, score=score) for score in scores)) == [False, False, True, True]


def test_one_in_a_number_of_passed_parts_is_kept():
    rule = PictureRule(Pictures(one_in=3, near_share=0))
    assert kept(rule, *(a_record(number) for number in range(1, 8))) == [False, False, True] * 2 + [False]


@pytest.mark.parametrize("values", [{"one_in": -1}, {"near_share": 2}, {"days": 0}, {"ng": 1}, {"gigabytes": -1.0}])
def test_impossible_rules_are_refused(values):
    with pytest.raises(RecordError):
        Pictures(**values)


def test_files_are_what_the_sensors_saw(tmp_path):
    arrays = {"rgb": IMAGE, "xyz": CLOUD, "map": MAP}
    write_pictures(tmp_path / "part", arrays, a_rejected(1).result, INSPECTED, overlay=True)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "part" / "rgb.png")), IMAGE)
    np.testing.assert_array_equal(read_npz(tmp_path / "part" / "xyz.npz"), CLOUD)
    expected = Inspection(
        name="1",
        reason="score",
        message="No.",
        score=0.99,
        threshold=0.5,
        map_threshold=0.5,
        map=MAP,
        view=PaddedSquare(height=30, width=40, top=5, left=0, side=40),
        sample=Sample("1", rgb=IMAGE, xyz=CLOUD),
    ).overlay()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "part" / "overlay.png")), expected)
    assert json.loads((tmp_path / "part" / "result.json").read_text())["acquisition_id"] == 1
    total = sum(file.stat().st_size for file in (tmp_path / "part").iterdir())
    assert total <= size_of(arrays)


def test_part_without_inspection_is_drawn_with_its_reason():
    result = a_rejected(1, "deadline", score=None).result
    assert draw({"rgb": IMAGE}, result, None).shape == IMAGE.shape
    assert draw({"xyz": CLOUD}, result, None).shape == IMAGE.shape


def test_impossible_drawing_is_left_out(tmp_path):
    bad = np.full((16, 16), np.nan, dtype=np.float32)
    write_pictures(tmp_path / "part", {"rgb": IMAGE, "map": bad}, a_rejected(1).result, INSPECTED, overlay=True)
    assert sorted(file.name for file in (tmp_path / "part").iterdir()) == ["result.json", "rgb.png"]
    assert draw({"rgb": IMAGE}, a_record(1).result, None) is None


def test_failure_leaves_no_part_of_a_folder(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picture_files.np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        write_pictures(tmp_path / "part", {"rgb": IMAGE, "xyz": CLOUD}, a_rejected(1).result, None, overlay=False)
    assert list(tmp_path.iterdir()) == []


def fill(state, numbers, *, day="2026-11-26", size=1000):
    for number in numbers:
        folder = part_folder(state, number, f"{day}T12:00:00")
        folder.mkdir(parents=True)
        (folder / "rgb.png").write_bytes(b"x" * size)


def numbers(state):
    return sorted(int(path.name) for path in pictures_folder(state).glob("*/*"))


def test_oldest_parts_leave_when_the_size_is_reached(tmp_path):
    fill(tmp_path, [1, 2, 3, 4])
    ring = PictureRing(pictures_folder(tmp_path), replace(ANYWHERE, gigabytes=4500e-9))
    assert ring.bytes == 4000
    assert ring.make_room(500, TODAY)
    assert numbers(tmp_path) == [1, 2, 3, 4]
    assert ring.make_room(2000, TODAY)
    assert numbers(tmp_path) == [3, 4]
    assert not ring.make_room(5000, TODAY)


def test_old_parts_leave_with_the_folder_of_their_day(tmp_path):
    fill(tmp_path, [1, 2], day="2026-10-26")
    fill(tmp_path, [3], day="2026-10-27")
    ring = PictureRing(pictures_folder(tmp_path), replace(ANYWHERE, days=30))
    assert ring.make_room(0, TODAY)
    assert numbers(tmp_path) == [3]
    assert [day.name for day in pictures_folder(tmp_path).iterdir()] == ["2026-10-27"]
    assert ring.make_room(0, TODAY + datetime.timedelta(days=1))
    assert (numbers(tmp_path), ring.bytes) == ([], 0)


def test_clock_that_steps_back_does_not_change_the_order(tmp_path):
    fill(tmp_path, [1, 2])
    fill(tmp_path, [3, 4], day="2026-11-20")
    ring = PictureRing(pictures_folder(tmp_path), replace(ANYWHERE, gigabytes=2000e-9))
    assert ring.make_room(0, TODAY)
    assert numbers(tmp_path) == [3, 4]


def test_free_space_of_the_disk_is_left_alone(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    fill(tmp_path, [1, 2, 3])

    def with_free_space(folder):
        return usage(0, 0, 10_000 - 1000 * len(numbers(tmp_path)))

    monkeypatch.setattr(picture_ring.shutil, "disk_usage", with_free_space)
    ring = PictureRing(pictures_folder(tmp_path), replace(ANYWHERE, least_free_gigabytes=8000e-9))
    assert ring.make_room(500, TODAY)
    assert numbers(tmp_path) == [3]
    assert not ring.make_room(3000, TODAY)


def test_ring_continues_after_a_restart_and_removes_what_a_killed_process_left(tmp_path):
    fill(tmp_path, [1, 2])
    left = pictures_folder(tmp_path) / "2026-11-26" / ".0000000003"
    left.mkdir()
    (left / "rgb.png").write_bytes(b"half")
    ring = PictureRing(pictures_folder(tmp_path), ANYWHERE)
    assert ring.bytes == 2000
    assert not left.exists()


def test_part_needs_little_memory(tmp_path):
    parts = 10_000
    ring = PictureRing(pictures_folder(tmp_path), ANYWHERE)
    tracemalloc.start()
    try:
        for number in range(1, parts + 1):
            ring.add(part_folder(tmp_path, number, "2026-11-26"))
        before, _ = tracemalloc.get_traced_memory()
        del ring
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What the ring alone held: other tests of the same process may have left threads and caches that allocate.
    assert 20 < (before - after) / parts < 400  # A path for each part needs 660 bytes.


class Memory:
    """Frame memory of one image, whose slots belong to the parts of the same number."""

    def __init__(self):
        self.gate = None

    def read(self, slot, owner_id, places, /):
        if slot != owner_id:
            raise WrongFrameError("another part")
        if self.gate is not None:
            assert self.gate.wait(LIMIT_S)
        return {"rgb": IMAGE}


def order(number, slot=None):
    return KeepPicture(
        slot=number if slot is None else slot, arrays=(), result=a_rejected(number).result, inspected=None
    )


def wait_for(keeper, count):
    answers = []
    while len(answers) < count:
        assert select.select([keeper], [], [], LIMIT_S)[0]
        answers += keeper.done()
    return answers


def test_pictures_are_written_in_the_background(tmp_path):
    with PictureKeeper(tmp_path, ANYWHERE, Memory, most_waiting=3) as keeper:
        assert keeper.keep(order(1)) is None
        assert keeper.keep(order(2)) is None
        assert wait_for(keeper, 2) == [PictureDone(slot=1, kept=True), PictureDone(slot=2, kept=True)]
        assert keeper.done() == []
    assert (part_folder(tmp_path, 2, TIME) / "overlay.png").exists()


def test_too_many_waiting_parts_are_skipped_and_counted(tmp_path):
    memory = Memory()
    memory.gate = threading.Event()
    with PictureKeeper(tmp_path, ANYWHERE, lambda: memory, most_waiting=2) as keeper:
        assert [keeper.keep(order(number)) for number in (1, 2)] == [None, None]
        assert keeper.keep(order(3)) == PictureDone(slot=3, kept=False, skipped=True)
        memory.gate.set()
        wait_for(keeper, 2)
        assert keeper.keep(order(4)) is None
        wait_for(keeper, 1)
    assert numbers(tmp_path) == [1, 2, 4]


def test_frame_of_another_part_is_never_kept(tmp_path):
    with PictureKeeper(tmp_path, ANYWHERE, Memory, most_waiting=2) as keeper:
        keeper.keep(order(1, slot=7))
        assert wait_for(keeper, 1) == [PictureDone(slot=7, kept=False, skipped=True)]
        keeper.keep(order(2))
        assert wait_for(keeper, 1) == [PictureDone(slot=2, kept=True)]
    assert numbers(tmp_path) == [2]


def test_full_disk_skips_pictures(tmp_path):
    full = replace(ANYWHERE, gigabytes=0.0)
    with PictureKeeper(tmp_path, full, Memory, most_waiting=2) as keeper:
        keeper.keep(order(1))
        assert wait_for(keeper, 1) == [PictureDone(slot=1, kept=False, skipped=True)]


def test_end_does_not_wait_for_pictures_that_wait(tmp_path, monkeypatch):
    memory = Memory()
    memory.gate = threading.Event()
    with PictureKeeper(tmp_path, ANYWHERE, lambda: memory, most_waiting=9) as keeper:
        for number in range(1, 9):
            keeper.keep(order(number))
        join = keeper._thread.join
        monkeypatch.setattr(keeper._thread, "join", lambda limit: memory.gate.set() or join(LIMIT_S))
    assert len(numbers(tmp_path)) <= 1
