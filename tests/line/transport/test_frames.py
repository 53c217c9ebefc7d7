"""A reader of shared memory gets the frame of its part or an error, also if a writer is killed."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from cmdiad_line.transport import frames
from cmdiad_line.transport.frames import FramePool, FrameTooLargeError, WrongFrameError, frames_path, pushed_owner
from cmdiad_line.transport.messages import ArrayPlace
from cmdiad_runtime.errors import OutputError
from patience import LIMIT_S

RGB = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
XYZ = np.linspace(0, 1, 4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)
MAP = np.linspace(0, 2, 36, dtype=np.float32).reshape(6, 6)

KILLED_MID_WRITE = """
import sys, time
import numpy as np
from cmdiad_line.transport import frames

pool = frames.FramePool.attach(sys.argv[1])

def half(view, array):
    view.reshape(-1)[: array.size // 2] = array.reshape(-1)[: array.size // 2]
    print("half", flush=True)
    time.sleep(600)

frames.np.copyto = half
pool.write(0, 8, {"rgb": np.full((4, 5, 3), 8, np.uint8)})
"""
WRITES_ALWAYS = """
import sys
import numpy as np
from cmdiad_line.transport.frames import FramePool

pool = FramePool.attach(sys.argv[1])
for part in range(1, 1 << 40):
    pool.write(0, part, {"rgb": np.full((40, 50, 3), part % 251, np.uint8)})
    if part == 1:
        print("writes", flush=True)
"""


@pytest.fixture
def pool(tmp_path):
    with FramePool.create(tmp_path / "frames", 3, 4000) as created:
        yield created


@pytest.fixture
def reader(pool):
    with FramePool.attach(pool.path) as attached:
        yield attached


def test_frame_survives_the_journey(pool, reader):
    places = pool.write(1, 7, {"rgb": RGB, "xyz": XYZ})
    arrays = reader.read(1, 7, places)
    assert np.array_equal(arrays["rgb"], RGB)
    assert np.array_equal(arrays["xyz"], XYZ)
    assert (arrays["rgb"].dtype, arrays["xyz"].dtype) == (np.uint8, np.float32)
    assert list(reader.read(1, 7, places[1:])) == ["xyz"]


def test_returned_arrays_are_private(pool, reader):
    places = pool.write(0, 7, {"rgb": RGB})
    arrays = reader.read(0, 7, places)
    pool.write(0, 8, {"rgb": RGB + 1})
    assert np.array_equal(arrays["rgb"], RGB)


def test_other_memory_orders_are_converted(pool, reader):
    arrays = {"rgb": RGB[:, ::-1], "xyz": XYZ.astype(">f4")}
    read = reader.read(0, 1, pool.write(0, 1, arrays))
    assert np.array_equal(read["rgb"], RGB[:, ::-1])
    assert np.array_equal(read["xyz"], XYZ)


def test_frame_of_another_part_is_refused(pool, reader):
    places = pool.write(1, 7, {"rgb": RGB})
    pool.write(2, 8, {"rgb": RGB})
    for slot, part in ((1, 8), (2, 7), (0, 7), (0, 0), (3, 7), (-1, 7)):
        with pytest.raises(WrongFrameError):
            reader.read(slot, part, places)


def test_frame_that_changes_during_the_copy_is_refused(pool, reader, monkeypatch):
    places = pool.write(1, 7, {"rgb": RGB})
    original = frames.zlib.crc32

    def crc_then_write(data):
        value = original(data)
        monkeypatch.undo()
        pool.write(1, 7, {"rgb": RGB})
        return value

    monkeypatch.setattr(frames.zlib, "crc32", crc_then_write)
    with pytest.raises(WrongFrameError, match="was written while"):
        reader.read(1, 7, places)


def test_damaged_data_are_refused(pool, reader):
    places = pool.write(0, 7, {"rgb": RGB})
    with pool.path.open("r+b") as file:
        content = file.read()
        file.seek(content.index(RGB.tobytes()) + 5)
        file.write(b"\xff")
    with pytest.raises(WrongFrameError, match="checksum"):
        reader.read(0, 7, places)


def test_places_outside_the_frame_are_refused(pool, reader):
    (place,) = pool.write(0, 7, {"rgb": RGB})
    for changes in (
        {"shape": (5, 5, 3)},
        {"offset": 64},
        {"offset": -64},
        {"offset": 1},
        {"dtype": "float64"},
        {"dtype": "float32"},
        {"shape": (-4, -5, 3)},
        {"shape": (1 << 40, 1 << 40)},
        {"offset": pool.slot_bytes},
    ):
        with pytest.raises(WrongFrameError):
            reader.read(0, 7, [replace(place, **changes)])


def test_map_is_read_with_its_frame(pool, reader):
    places = pool.write(1, 7, {"rgb": RGB})
    place = reader.add_map(1, 7, MAP)
    arrays = pool.read(1, 7, [*places, place])
    assert np.array_equal(arrays["map"], MAP)
    assert np.array_equal(arrays["rgb"], RGB)
    pool.write(1, 8, {"rgb": RGB})
    with pytest.raises(WrongFrameError, match="no map"):
        pool.read(1, 8, [place])


def test_map_of_a_late_inspection_does_not_touch_the_next_frame(pool, reader):
    pool.write(1, 7, {"rgb": RGB})
    places = pool.write(1, 8, {"rgb": RGB + 1})
    with pytest.raises(WrongFrameError, match="holds part 8"):
        reader.add_map(1, 7, MAP)
    assert np.array_equal(pool.read(1, 8, places)["rgb"], RGB + 1)


def test_what_does_not_fit_is_refused(pool):
    with pytest.raises(FrameTooLargeError, match="slots of"):
        pool.write(0, 7, {"rgb": np.zeros((100, 100, 3), np.uint8)})
    with pytest.raises(FrameTooLargeError, match="float64"):
        pool.write(0, 7, {"xyz": XYZ.astype(np.float64)})
    pool.write(0, 7, {"rgb": RGB})
    with pytest.raises(FrameTooLargeError, match="map"):
        pool.add_map(0, 7, np.zeros((2000, 2000), np.float32))


def test_pushed_frame_is_adopted_once(pool, reader):
    places = pool.write(0, pushed_owner(7), {"rgb": RGB})
    with pytest.raises(WrongFrameError):
        reader.read(0, 7, places)
    reader.adopt(0, pushed_owner(7), 19)
    assert np.array_equal(reader.read(0, 19, places)["rgb"], RGB)
    with pytest.raises(WrongFrameError):
        reader.adopt(0, pushed_owner(7), 20)


def test_cleared_slot_is_empty(pool, reader):
    places = pool.write(0, 7, {"rgb": RGB})
    assert (reader.owner(0), reader.owner(1)) == (7, 0)
    reader.clear(0)
    assert pool.owner(0) == 0
    with pytest.raises(WrongFrameError, match="nothing"):
        pool.read(0, 7, places)


def start(code: str, pool: FramePool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code, str(pool.path)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_writer_that_is_killed_in_the_middle_leaves_an_empty_slot(pool, reader):
    places = pool.write(0, 7, {"rgb": RGB})
    with start(KILLED_MID_WRITE, pool) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.kill()
    assert pool.owner(0) == 0
    for part in (7, 8):
        with pytest.raises(WrongFrameError, match="half a frame"):
            reader.read(0, part, places)
    places = pool.write(0, 9, {"rgb": RGB})
    assert np.array_equal(reader.read(0, 9, places)["rgb"], RGB)


def test_reader_next_to_a_busy_writer_never_sees_a_mixture(tmp_path):
    with FramePool.create(tmp_path / "frames", 1, 6000) as pool, start(WRITES_ALWAYS, pool) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writes\n"
            place = ArrayPlace(name="rgb", dtype="uint8", shape=(40, 50, 3), offset=0)
            whole, limit = 0, time.monotonic() + LIMIT_S
            while whole < 200 and time.monotonic() < limit:
                part = pool.owner(0)
                try:
                    image = pool.read(0, part, [place])["rgb"]
                except WrongFrameError:
                    continue
                assert (image == part % 251).all()
                whole += 1
            assert whole == 200
        finally:
            writer.kill()
        assert writer.wait() == -9


def test_frames_of_a_killed_station_are_removed_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "SHARED_MEMORY", tmp_path)
    killed = "import os, sys; from pathlib import Path; from cmdiad_line.transport.frames import FramePool\n"
    killed += "FramePool.create(Path(sys.argv[1]), 2, 4000); os.kill(os.getpid(), 9)"
    left, running = frames_path(tmp_path / "one"), frames_path(tmp_path / "two")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", killed, str(left)], check=False, env=environment).returncode == -9
    foreign = tmp_path / "other"
    foreign.touch()
    assert left.exists()
    with FramePool.create(running, 2, 4000) as pool:
        assert not left.exists()
        with FramePool.create(frames_path(tmp_path / "three"), 2, 4000):
            assert running.exists()
            assert pool.write(0, 1, {"rgb": RGB})
    assert list(tmp_path.iterdir()) == [foreign]


def test_path_depends_on_the_state_folder(tmp_path):
    assert frames_path(tmp_path / "one") != frames_path(tmp_path / "two")
    assert frames_path(tmp_path / "one") == frames_path(tmp_path / "x" / ".." / "one")


def test_memory_is_reserved_at_the_start(tmp_path, monkeypatch):
    def refuse(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frames.os, "posix_fallocate", refuse)
    with pytest.raises(OutputError, match="--shm-size"):
        FramePool.create(tmp_path / "frames", 2, 4000)
    assert not (tmp_path / "frames").exists()


@pytest.mark.parametrize("content", [None, b"", b"x" * 10_000, struct.pack("<8sQQ", b"CMDIADF1", 2, 4096)])
def test_file_without_frames_is_refused(tmp_path, content):
    path = tmp_path / "frames"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OutputError, match="frames"):
        FramePool.attach(path)


def test_only_the_owner_removes_the_file(tmp_path):
    pool = FramePool.create(tmp_path / "frames", 1, 4000)
    FramePool.attach(pool.path).close()
    assert pool.path.exists()
    assert pool.path.stat().st_mode & 0o777 == 0o600
    pool.close()
    pool.close()
    assert not pool.path.exists()
