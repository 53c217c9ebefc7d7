"""Frames that arrive by themselves, from a watched folder and by HTTP, get exactly one result each."""

from __future__ import annotations

import io
import json
import shutil
import socket
import struct
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cmdiad_line.acquisition import source
from cmdiad_line.acquisition.sources import claims, make_source
from cmdiad_line.acquisition.sources.claims import WAITING
from cmdiad_line.acquisition.sources.folder import WatchedFolder
from cmdiad_line.acquisition.sources.push import LARGEST_HEADER, SOCKET, Push
from cmdiad_line.records.database import Database
from cmdiad_line.station_file.source import FolderSource, PushSource
from cmdiad_runtime.readers.worker import TimedReader
from cmdiad_runtime.sample import Sample
from patience import LIMIT_S
from record_rows import a_record

IMAGE = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
CLOUD = np.random.default_rng(2).uniform(0.1, 0.5, (24, 32, 3)).astype(np.float32)


def next_frame(opened: source.Source) -> source.Frame:
    """Wait for a frame, with a generous limit."""
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        try:
            return opened.frame(0.02)
        except source.FrameTimeoutError:
            continue
    pytest.fail("no frame")


def png(pixels: np.ndarray = IMAGE) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def tiff(points: np.ndarray = CLOUD) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, points, photometric="rgb")
    return stream.getvalue()


# --- folder ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def watched(folder, monkeypatch):
    """Return a function that opens a source whose limits no slow machine reaches."""
    monkeypatch.setattr(claims, "RECORDED_S", 1000 * LIMIT_S)
    opened: list[WatchedFolder] = []

    def make(**changes: Any) -> WatchedFolder:
        patient = {"settle_ms": 0, "limit_ms": 600_000, "timeout_ms": 60_000}
        settings = FolderSource(**{"kind": "folder", "path": folder, **patient, **changes})
        made = make_source(settings, folder.parent)
        assert isinstance(made, WatchedFolder)
        made.open()
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


def test_file_in_the_folder_becomes_a_frame(folder, watched):
    made = watched()
    with pytest.raises(source.FrameTimeoutError):
        made.frame(0.0)
    (folder / "part 1.png").write_bytes(png())
    before = time.monotonic_ns()
    frame = next_frame(made)
    assert np.array_equal(frame.arrays["rgb"], IMAGE)
    assert frame.part_id == "part 1.png"
    assert before <= frame.captured_ns <= time.monotonic_ns()
    assert not (folder / "part 1.png").exists()
    with pytest.raises(source.FrameTimeoutError):
        made.frame(0.1)


def record(state: Path, *parts: int) -> None:
    """Record results, as the records process does."""
    with closing(Database(state)) as database, database.transaction() as rows:
        for part in parts:
            rows.record(a_record(part))


def trigger(arrival: source.Frame | source.FrameRefusedError, part: int) -> None:
    """Report the acquisition id that the supervisor gave to a part."""
    assert arrival.answer is not None
    arrival.answer(part)


def taken(folder: Path) -> list[str]:
    """Return the files of parts whose result is recorded."""
    return sorted(path.name for path in (folder / "taken").glob("*.*") if path.is_file())


def test_file_is_taken_when_its_result_is_recorded(folder, watched):
    made = watched()
    (folder / "7.png").write_bytes(png())
    frame = next_frame(made)
    for recorded, expected in ((), []), ((70,), []), ((71,), ["7.png"]):
        record(folder.parent, *recorded)
        if recorded == (70,):
            trigger(frame, 71)
        with pytest.raises(source.FrameTimeoutError):
            made.frame(0.0)
        assert taken(folder) == expected
    assert (folder / "taken" / "7.png").read_bytes() == png()
    assert not list((folder / "taken" / WAITING).iterdir())


def test_part_whose_result_was_lost_is_ng_after_the_restart(folder, watched, monkeypatch):
    """The process is killed after it has moved the file, before or after it has triggered."""
    made = watched()
    for name in ("6.png", "7.png", "8.png"):
        (folder / name).write_bytes(png())
    for number in (6, 7):
        trigger(next_frame(made), number)
    next_frame(made)
    record(folder.parent, 6)
    made.close()
    monkeypatch.setattr(claims, "RECORDED_S", 0.0)
    again, refused = watched(), {}
    for number in (10, 11):
        with pytest.raises(source.FrameRefusedError, match="before the result of this part was recorded") as caught:
            again.frame(0.0)
        refused[caught.value.part_id] = caught.value.reason
        trigger(caught.value, number)
    assert refused == {"7.png": "acquisition-died", "8.png": "acquisition-died"}
    record(folder.parent, 10, 11)
    with pytest.raises(source.FrameTimeoutError):
        again.frame(0.0)
    assert taken(folder) == ["6.png", "7.png", "8.png"]


def test_part_of_a_supervisor_that_survived_gets_no_second_result(folder, watched):
    made = watched()
    (folder / "7.png").write_bytes(png())
    trigger(next_frame(made), 7)
    made.close()
    again = watched()
    with pytest.raises(source.FrameTimeoutError):
        again.frame(0.0)
    record(folder.parent, 7)
    with pytest.raises(source.FrameTimeoutError):
        again.frame(0.0)
    assert taken(folder) == ["7.png"]


def test_kill_before_the_first_file_is_moved_loses_and_adds_no_part(folder, watched, monkeypatch):
    (folder / "taken" / WAITING / "new-1").mkdir(parents=True)
    (folder / "7.png").write_bytes(png())
    monkeypatch.setattr(claims, "RECORDED_S", 0.0)
    assert next_frame(watched()).part_id == "7.png"


def test_image_and_cloud_are_one_frame(folder, watched):
    made = watched(delivers="both")
    for name, content in (("xyz/7.tiff", tiff()), ("rgb/7.png", png())):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(content)
    frame = next_frame(made)
    assert sorted(frame.arrays) == ["rgb", "xyz"]
    assert np.array_equal(frame.arrays["xyz"], CLOUD)
    assert sorted(path.name for path in (folder / "taken" / WAITING).rglob("7.*")) == ["7.png", "7.tiff"]


@pytest.mark.parametrize(
    ("moved", "left"),
    [("7.png", "7.tiff"), ("7.tiff", "7.png"), ("rgb/7.png", "xyz/7.tiff"), ("depth/7.png", "rgb/7.png")],
)
@pytest.mark.failure_mode("A station that is killed while the image and cloud of a part are moved")
def test_kill_between_image_and_cloud_leaves_no_file_for_the_next_part(folder, watched, monkeypatch, moved, left):
    for path in (folder / "taken" / WAITING / "new-1" / moved, folder / left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff() if path.suffix == ".tiff" else png())
    monkeypatch.setattr(claims, "RECORDED_S", 0.0)
    made = watched(delivers="both")
    (folder / moved).parent.mkdir(exist_ok=True)
    (folder / moved).write_bytes(tiff() if moved.endswith(".tiff") else png())
    with pytest.raises(source.FrameRefusedError) as caught:
        made.frame(0.0)
    assert caught.value.reason == "acquisition-died"
    with pytest.raises(source.FrameTimeoutError):
        made.frame(0.1)  # The file of the next part waits for its partner.
    trigger(caught.value, 7)
    record(folder.parent, 7)
    with pytest.raises(source.FrameTimeoutError):
        made.frame(0.0)
    assert all((folder / "taken" / name).is_file() for name in (moved, left))


def test_kill_after_the_image_of_two_clouds_leaves_neither_for_the_next_part(folder, watched):
    (folder / "taken" / WAITING / "new-1").mkdir(parents=True)
    (folder / "taken" / WAITING / "new-1" / "7.png").write_bytes(png())
    for name in ("7.tiff", "7.npz"):
        (folder / name).write_bytes(tiff())
    watched(delivers="both")
    assert not list(folder.glob("7.*"))


@pytest.mark.parametrize(
    ("moved", "left"),
    [
        (["7.png", "7.npz"], ["7.ply"]),
        (["7.jpg"], ["7.png", "7.ply"]),
        (["rgb/7.jpg"], ["rgb/7.png", "xyz/7.ply"]),
        (["rgb/7.png", "xyz/7.npz"], ["xyz/7.png"]),
        (["xyz/7.npz"], ["xyz/7.png"]),
    ],
)
def test_kill_among_several_files_of_one_name_leaves_none_for_the_next_part(folder, watched, moved, left):
    for path in (*(folder / "taken" / WAITING / "new-1" / name for name in moved), *(folder / name for name in left)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of this part")
    following = folder / moved[0]
    following.parent.mkdir(exist_ok=True)
    following.write_bytes(b"of the next part")
    watched(delivers="both")
    assert not [name for name in left if (folder / name).exists()]
    assert following.read_bytes() == b"of the next part"
    assert (folder / "taken" / WAITING / "new-1" / moved[0]).read_bytes() == b"of this part"


def test_second_cloud_of_one_name_is_refused_and_taken(folder, watched):
    made = watched(delivers="both")
    for name, content in (("7.png", png()), ("7.npz", b"cloud"), ("7.tiff", tiff())):
        (folder / name).write_bytes(content)
    with pytest.raises(source.FrameRefusedError, match="not known which image and which cloud") as caught:
        next_frame(made)
    assert (caught.value.reason, caught.value.part_id) == ("unsupported", "7.png")
    assert not list(folder.glob("7.*"))


def test_kill_after_a_refused_file_leaves_its_late_partner_alone(folder, watched):
    """A claim with an id was whole: the file in the folder belongs to the next part."""
    (folder / "taken" / WAITING / "7").mkdir(parents=True)
    (folder / "taken" / WAITING / "7" / "7.png").write_bytes(png())
    (folder / "7.tiff").write_bytes(tiff())
    watched(delivers="both")
    assert (folder / "7.tiff").exists()


@pytest.mark.parametrize("delivers", ["rgb", "both"])
@pytest.mark.failure_mode("A file in the folder of a station that is replaced while the part is read")
def test_file_that_is_replaced_while_it_is_read_is_not_taken(folder, watched, monkeypatch, delivers):
    """A file that replaces another one while it is read stays in the folder, because it shows the next part."""
    made = watched(delivers=delivers)
    read = TimedReader.read_files

    def read_and_replace(*arguments: Any, **options: Any) -> Sample:
        sample = read(*arguments, **options)
        (folder / "7.png").write_bytes(png(255 - IMAGE) + b" ")
        return sample

    (folder / "7.png").write_bytes(png())
    (folder / "7.tiff").write_bytes(tiff())
    with monkeypatch.context() as patch, pytest.raises(source.FrameRefusedError, match="changed while") as caught:
        patch.setattr(TimedReader, "read_files", read_and_replace)
        next_frame(made)
    assert caught.value.reason == "unreadable"
    assert (folder / "7.png").exists()
    if delivers == "both":
        assert not (folder / "7.tiff").exists()
        with pytest.raises(source.FrameTimeoutError):
            made.frame(0.1)
        (folder / "7.tiff").write_bytes(tiff(2 * CLOUD))
    assert np.array_equal(next_frame(made).arrays["rgb"], 255 - IMAGE)


def test_pair_of_which_one_file_cannot_be_moved_stays_whole(folder, watched, monkeypatch):
    made = watched(delivers="both")
    for name, content in (("7.png", png()), ("7.tiff", tiff())):
        (folder / name).write_bytes(content)
    replace = Path.replace

    def refuse_clouds(path: Path, target: Path) -> Path:
        if path.suffix == ".tiff":
            raise PermissionError(13, "Permission denied")
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(source.SourceError, match="cannot be moved"):
        patch.setattr(Path, "replace", refuse_clouds)
        next_frame(made)
    made.close()
    made.open()
    assert sorted(next_frame(made).arrays) == ["rgb", "xyz"]


def test_image_without_its_cloud_is_refused_in_time(folder, watched):
    made = watched(delivers="both", limit_ms=10)
    (folder / "7.png").write_bytes(png())
    with pytest.raises(source.FrameRefusedError, match="no cloud") as caught:
        next_frame(made)
    assert (caught.value.reason, caught.value.part_id) == ("missing-modality", "7.png")


def test_damaged_file_is_refused_once(folder, watched):
    made = watched()
    (folder / "7.png").write_bytes(png()[:200])
    with pytest.raises(source.FrameRefusedError, match=r"^7\.png: found") as caught:
        next_frame(made)
    assert caught.value.reason == "unreadable"
    with pytest.raises(source.FrameTimeoutError):
        made.frame(0.1)


def test_files_that_were_not_read_wait_for_the_next_start(folder, watched):
    made = watched()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png())
    assert next_frame(made).part_id == "0.png"
    made.close()
    again = watched()
    assert {next_frame(again).part_id, next_frame(again).part_id} == {"1.png", "2.png"}


def test_file_of_the_same_name_is_a_new_part(folder, watched):
    made = watched()
    for _ in range(2):
        (folder / "7.png").write_bytes(png())
        assert next_frame(made).part_id == "7.png"


def test_folder_that_goes_away(folder, watched):
    made = watched()
    shutil.rmtree(folder)
    with pytest.raises(source.SourceGoneError, match="away"):
        made.check()
    with pytest.raises(source.SourceGoneError, match="cannot be written"):
        made.open()


def test_file_that_cannot_be_moved_is_no_frame(folder, watched, monkeypatch):
    made = watched()
    (folder / "7.png").write_bytes(png())

    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(source.SourceError, match="cannot be moved"):
        next_frame(made)


# --- push ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pushed(tmp_path):
    opened: list[Push] = []

    def make(**changes: Any) -> Push:
        made = make_source(PushSource(**{"kind": "push", "timeout_ms": 60_000, **changes}), tmp_path)
        assert isinstance(made, Push)
        made.open()
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One open source for the tests that send no picture, and its state folder."""
    state = tmp_path_factory.mktemp("s")
    made = Push(PushSource(kind="push", max_megabytes=1, timeout_ms=60_000), state / SOCKET)
    made.open()
    yield made, state
    made.close()


def upload(state: Path, contents: dict[str, bytes], **header: object) -> socket.socket:
    entries = [{"name": name, "bytes": len(content)} for name, content in contents.items()]
    fields = {"part_id": "part 7", "arrived_ns": time.monotonic_ns(), "files": entries, **header}
    text = json.dumps(fields).encode()
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sender.settimeout(LIMIT_S)
    sender.connect(str(state / SOCKET))
    sender.sendall(struct.pack(">I", len(text)) + text + b"".join(contents.values()))
    return sender


def answer_of(sender: socket.socket) -> object:
    with sender:
        data = sender.recv(1000)
    return json.loads(data[4:]) if data else None


def test_upload_becomes_a_frame(tmp_path, pushed):
    made = pushed(delivers="both")
    sender = upload(tmp_path, {"rgb.png": png(), "xyz.tiff": tiff()})
    frame = next_frame(made)
    assert frame.part_id == "part 7"
    assert np.array_equal(frame.arrays["rgb"], IMAGE)
    assert np.array_equal(frame.arrays["xyz"], CLOUD)
    assert frame.answer is not None
    frame.answer(17)
    assert answer_of(sender) == {"acquisition_id": 17}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["push.sock"]
    assert (tmp_path / SOCKET).stat().st_mode & 0o777 == 0o600


def test_upload_that_waited_is_as_old_as_it_is(tmp_path, pushed):
    made = pushed()
    with upload(tmp_path, {"rgb.png": png()}, arrived_ns=17):
        frame = next_frame(made)
        assert frame.captured_ns == 17
        assert frame.answer is not None
        frame.answer(1)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"rgb.png": png()[:100]}, "unreadable"),
        ({"rgb.tiff": tiff()}, "unsupported"),
        ({"rgb.exe": png()}, "unsupported"),
        ({"both.npz": b"x"}, "unsupported"),
        ({"../../evil.png": png()}, "unsupported"),
        ({}, "missing-modality"),
        ({"xyz.tiff": tiff()}, "missing-modality"),
        ({"rgb.png": png(), "xyz.tiff": tiff()}, "unsupported"),
    ],
)
def test_upload_that_cannot_be_read_gets_a_result(tmp_path, pushed, files, reason):
    made = pushed()
    sender = upload(tmp_path, files)
    with pytest.raises(source.FrameRefusedError) as caught:
        next_frame(made)
    assert (caught.value.reason, caught.value.part_id) == (reason, "part 7")
    assert caught.value.answer is not None
    caught.value.answer(18)
    assert answer_of(sender) == {"acquisition_id": 18}
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", LARGEST_HEADER + 1),
        struct.pack(">I", 2) + b"{}",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 3) + b"{{{",
    ],
)
def test_connection_that_breaks_the_protocol_is_closed(shared, content):
    made, state = shared
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sender:
        sender.settimeout(LIMIT_S)
        sender.connect(str(state / SOCKET))
        sender.sendall(content)
        sender.shutdown(socket.SHUT_WR)
        with pytest.raises(source.FrameTimeoutError):
            made.frame(LIMIT_S)
        with suppress(ConnectionResetError):
            assert answer_of(sender) is None
    sender = upload(state, {"rgb.png": png()})
    frame = next_frame(made)
    assert frame.answer is not None
    frame.answer(1)
    sender.close()


@pytest.mark.parametrize(
    "header",
    [
        {"part_id": 7},
        {"arrived_ns": "7"},
        {"arrived_ns": 2**62},
        {"files": [{"name": "rgb.png", "bytes": -1}]},
        {"files": [{"name": "rgb.png", "bytes": "7"}]},
        {"files": [{"name": "rgb.png", "bytes": 2_000_000}]},
        {"files": [{"name": "rgb.png", "bytes": 1}] * 3},
        {"files": [{"name": "rgb.png"}]},
        {"files": [7]},
    ],
)
def test_header_with_wrong_values_is_refused(shared, header):
    made, state = shared
    sender = upload(state, {"rgb.png": b"x"}, **header)
    with pytest.raises(source.FrameTimeoutError):
        made.frame(LIMIT_S)
    with sender, suppress(ConnectionResetError):
        assert sender.recv(10) == b""


def test_socket_of_a_killed_process_is_replaced(tmp_path, pushed):
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / SOCKET))
    made = pushed()
    made.check()
    (tmp_path / SOCKET).unlink()
    with pytest.raises(source.SourceGoneError):
        made.check()
