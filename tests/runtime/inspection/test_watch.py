"""A watched folder: a sample is yielded once, when all files are complete, or with the reason why it is not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection import watch as watch_module
from cmdiad_runtime.inspection.arrived import Arrived
from cmdiad_runtime.inspection.digest_set import DigestSet
from cmdiad_runtime.inspection.done_folders import open_done_folders
from cmdiad_runtime.inspection.stored_results import InspectedFiles, inspected_files
from cmdiad_runtime.inspection.watch import FolderWatch, WatchOptions
from cmdiad_runtime.names import Modality
from helpers import write_cloud, write_image


class Watched:
    """A folder with its watch, whose clock the test sets.

    Attributes:
        folder: Watched folder.
        said: Messages.
        watch: The watch.
        now: Present time, seconds.
    """

    def __init__(
        self,
        folder: Path,
        modalities: Iterable[Modality] = ("rgb",),
        *,
        inspected: InspectedFiles | None = None,
        **options: object,
    ) -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self.said: list[str] = []
        self.now = 100.0
        self.inspected = inspected or InspectedFiles(DigestSet(), DigestSet())
        chosen = WatchOptions(settle_s=2, limit_s=60, **options)  # type: ignore[arg-type]
        self.watch = FolderWatch(
            folder, tuple(modalities), chosen, self.said.append, inspected=self.inspected, clock=lambda: self.now
        )

    def write(self, name: str, content: bytes = b"picture", *, mtime: int | None = None) -> Path:
        """Write a file, with a time of change in seconds if one is named."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if mtime is not None:
            os.utime(path, (mtime, mtime))
        return path

    def search(self, after: float = 0.0) -> list[Arrived]:
        """Return the samples that a search some seconds later yields."""
        self.now += after
        return list(self.watch.search())

    def names(self, after: float = 0.0) -> list[str]:
        """Return the names of the samples of a search that are not refused."""
        arrived = self.search(after)
        assert [sample.refusal for sample in arrived] == [None] * len(arrived)
        return [sample.path.relative_to(self.folder).as_posix() for sample in arrived]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "line")


def test_files_present_at_the_start_are_yielded_once_when_they_have_settled(watched: Watched) -> None:
    watched.write("b.png")
    watched.write("a.jpg")
    watched.write("more/c.PNG")
    assert watched.names() == []
    assert watched.names(after=1.9) == []
    assert watched.names(after=0.1) == ["a.jpg", "b.png", "more/c.PNG"]
    watched.write("d.png")
    assert watched.names(after=10) == []
    assert watched.names(after=2) == ["d.png"]
    assert watched.names(after=10) == []


def test_a_file_that_grows_is_not_complete(watched: Watched) -> None:
    watched.write("a.png", b"1")
    for size in range(2, 6):
        assert watched.names(after=1.5) == []
        watched.write("a.png", b"1" * size)
    assert watched.names(after=1.5) == []
    assert watched.names(after=2) == ["a.png"]


def test_a_file_that_changes_without_growing_is_not_complete(watched: Watched) -> None:
    """Some cameras allocate the whole file first."""
    watched.write("a.png", mtime=1000)
    assert watched.names() == []
    watched.write("a.png", mtime=1001)
    assert watched.names(after=2) == []
    assert watched.names(after=2) == ["a.png"]


@pytest.mark.parametrize("name", [".", "line", "line/.."])
@pytest.mark.parametrize("moves", [False, True])
def test_any_name_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, moves: bool) -> None:
    """A finished file is recognised by its path as text."""
    monkeypatch.chdir(tmp_path)
    Path("line").mkdir()
    watched = Watched(Path(name), moves=moves)
    watched.write("a.png")
    watched.write("more/b.png")
    watched.search()
    assert [sample.path.name for sample in watched.search(after=2)] == ["a.png", "b.png"]
    watched.search(after=2)
    assert watched.names(after=2) == []


@pytest.mark.failure_mode("A file in a watched folder that never stops growing")
def test_a_file_that_never_settles_is_refused(watched: Watched) -> None:
    refused: list[Arrived] = []
    for size in range(1, 63):
        watched.write("a.png", b"1" * size)
        refused += watched.search(after=1)
    (sample,) = refused
    assert sample.refusal is not None
    assert sample.refusal.reason == "timeout"
    assert "still changes, 60 s after" in str(sample.refusal)
    assert watched.names(after=1) == []
    assert watched.names(after=2) == ["a.png"], "the complete file gets its own verdict"


def test_a_file_that_cannot_be_opened_waits_and_is_refused(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows the camera may keep the file locked."""

    def refuse(path: Path, *, follow: bool) -> None:
        raise PermissionError(13, "Permission denied")

    watched.write("a.png")
    assert watched.names() == []
    monkeypatch.setattr(watch_module, "open_regular", refuse)
    assert watched.names(after=3) == []
    (sample,) = watched.search(after=60)
    assert sample.refusal is not None
    assert sample.refusal.reason == "unreadable"
    assert "cannot be opened (permission denied)" in str(sample.refusal)


def test_a_replaced_file_is_yielded_again(watched: Watched) -> None:
    watched.write("a.png", mtime=1000)
    watched.search()
    assert watched.names(after=2) == ["a.png"]
    watched.write("a.png", mtime=1002)
    watched.search()
    assert watched.names(after=2) == ["a.png"]


@pytest.mark.failure_mode("A file in a watched folder that is replaced during the inspection")
def test_a_file_that_is_replaced_during_the_inspection_gets_no_verdict_of_the_other(watched: Watched) -> None:
    watched.write("a.png", mtime=1000)
    watched.search()
    (sample,) = watched.search(after=2)
    sample.check_unchanged()
    watched.write("a.png", mtime=1003)
    with pytest.raises(Exception, match="changed while the sample was inspected"):
        sample.check_unchanged()


def test_temporary_names_masks_results_and_links_to_folders_are_left_out_with_one_line(watched: Watched) -> None:
    for name in ("a.png.part", "b.png.tmp", "c.png~", "~d.png", "e.tmp.png", ".f.png", "g_mask.png", "h.dng", "i.txt"):
        watched.write(name)
    watched.write("masks/j.png")
    watched.write("runs/run.json")
    watched.write("runs/parts.png")
    (watched.folder / "loop").symlink_to(watched.folder)
    watched.write("z.png")
    watched.search()
    assert watched.names(after=2) == ["z.png"]
    subjects = sorted(line.split(", the first")[0].replace(str(watched.folder), "") for line in watched.said)
    assert subjects == [
        "skipped: files of another format",
        "skipped: files with a temporary name",
        "skipped: hidden",
        "skipped: masks",
        "warning: /loop is a link to a folder, which is not watched",
    ]
    (watched.folder / "e.tmp.png").rename(watched.folder / "e.png")
    watched.search()
    assert watched.names(after=2) == ["e.png"]


@pytest.mark.failure_mode("A watched folder that is away for a while")
def test_a_folder_that_is_away_for_a_while_is_reported_and_retried(watched: Watched) -> None:
    watched.write("a.png")
    watched.search()
    away = watched.folder.with_name("away")
    watched.folder.rename(away)
    assert watched.names(after=1) == []
    assert watched.names(after=100) == []
    away.rename(watched.folder)
    assert watched.names(after=1) == [], "files count as new, so none is late"
    assert watched.names(after=2) == ["a.png"]
    lost, back = watched.said
    assert lost == f"warning: {watched.folder} cannot be listed (no such file or directory); retried until it can"
    assert back == f"{watched.folder} is back after 101 s"


def test_time_in_which_the_inspection_takes_no_sample_does_not_make_files_late(watched: Watched) -> None:
    watched.write("a.png")
    watched.search()
    watched.now += 2
    search = watched.watch.search()
    assert next(search).path.name == "a.png"
    watched.write("b.png", b"1")
    watched.now += 1000  # The engine is busy.
    assert list(search) == []
    assert watched.names() == []
    watched.write("b.png", b"22")
    assert watched.names(after=2) == []
    assert watched.names(after=2) == ["b.png"]


def test_memory_is_bounded(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "MOST_PENDING", 3)
    names = [f"{number}.png" for number in range(10)]
    for name in names:
        watched.write(name)
    searches = [watched.names(after=2) for _ in range(12)]
    assert max(map(len, searches)) == 3
    assert sorted(name for found_names in searches for name in found_names) == names


@pytest.mark.parametrize("folders", [("", ""), ("rgb/", "xyz/"), ("rgb/", "depth/")])
def test_image_and_cloud_are_yielded_together(tmp_path: Path, folders: tuple[str, str]) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"))
    images, clouds = folders
    suffix = "png" if clouds == "depth/" else "ply"
    watched.write(f"{images}1.png")
    assert watched.names() == []
    assert watched.names(after=30) == []
    cloud = watched.write(f"{clouds}1.{suffix}")
    assert watched.names(after=1) == []
    (sample,) = watched.search(after=2)
    assert sample.refusal is None
    assert [file.path for file in sample.files] == [watched.folder / images / "1.png", cloud]
    assert watched.names(after=100) == []
    os.utime(cloud, (5, 5))
    os.utime(sample.path, (6, 6))
    watched.search()
    assert watched.names(after=2) == [f"{images}1.png"], "a new image and a new cloud make a new sample"


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize(("first", "second", "missing"), [("1.png", "1.ply", "cloud"), ("1.ply", "1.png", "image")])
@pytest.mark.failure_mode("An image and a cloud in a watched folder of which one is replaced")
def test_a_new_file_is_not_inspected_with_the_partner_of_an_earlier_part(
    tmp_path: Path, first: str, second: str, missing: str, moves: bool
) -> None:
    """A camera that writes the same name for every part, next to a 3D sensor that is slower than the settle time."""
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=moves)
    for part in (1, 2, 3):
        watched.write(first, b"first", mtime=100 * part)
        watched.search()
        assert watched.search(after=30) == [], f"part {part}"
        watched.write(second, b"second", mtime=100 * part + 1)
        watched.search()
        assert watched.names(after=2) == ["1.png"]
    watched.write(first, b"first", mtime=400)
    watched.search()
    (late,) = watched.search(after=60)
    assert late.refusal is not None
    assert late.refusal.reason == "missing-modality"
    assert f"no new {missing}, but the {missing} of an earlier sample" in str(late.refusal)
    watched.write(second, b"second", mtime=401)
    watched.search()
    (late,) = watched.search(after=60)
    assert late.refusal is not None, "it cannot be distinguished from a file of the next part"
    watched.write(first, b"first", mtime=500)
    watched.write(second, b"second", mtime=501)
    watched.search()
    assert watched.names(after=2) == ["1.png"]


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("1.jpg", "1.tiff"), ("1.png", "1.tiff")),
        (("1.png", "1.ply"), ("1.png", "1.tiff")),
        (("rgb/1.png", "xyz/1.tiff"), ("rgb/1.bmp", "xyz/1.tiff")),
    ],
)
@pytest.mark.failure_mode("A name in a watched folder that is used again with another suffix")
def test_a_new_image_with_another_suffix_waits_for_its_own_cloud(
    tmp_path: Path, first: tuple[str, str], second: tuple[str, str], restart: bool, moves: bool
) -> None:
    """Inspected files stay, or the first part was inspected by a run that was killed before it moved the cloud."""
    cloud = write_cloud(tmp_path / "cloud.tiff", np.ones((8, 8, 3), np.float32)).read_bytes()
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=moves)
    for name in first:
        watched.write(name, cloud, mtime=100)
    watched.search()
    (sample,) = watched.search(after=2)
    if restart:
        line = {"input": sample.name, "file_state": sample.state, "verdict": "OK", "reason": None}
        (tmp_path / "results.jsonl").write_text(f"{json.dumps(line)}\n")
        watched = Watched(tmp_path / "line", ("rgb", "xyz"), inspected=inspected_files(tmp_path, {}), moves=moves)
    if moves:
        sample.path.unlink()
        watched.watch.release(sample)
    watched.write(second[0], mtime=200)
    watched.search()
    assert watched.search(after=10) == []
    watched.write(second[1], cloud, mtime=201)
    watched.search()
    arrived = watched.search(after=2)
    assert [sample.path.relative_to(watched.folder).as_posix() for sample in arrived] == [second[0]]
    assert arrived[0].refusal is None
    assert watched.search(after=100) == [], "the files of the first part, which stay, have a line"


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize(
    ("alone", "partner"), [("rgb/1.png", "xyz/1.ply"), ("1.ply", "1.png"), ("xyz/1.ply", "rgb/1.png")]
)
@pytest.mark.failure_mode("A file in a watched folder whose partner was lost, and the next part has the same name")
def test_a_file_whose_partner_was_lost_completes_no_other_part(
    tmp_path: Path, alone: str, partner: str, moves: bool, restart: bool
) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=moves)
    watched.write(alone, mtime=100)
    watched.search()
    (lost,) = watched.search(after=60)
    assert lost.refusal is not None
    if restart:
        line = {"input": lost.name, "file_state": lost.state, "verdict": "NG", "reason": lost.refusal.reason}
        (tmp_path / "results.jsonl").write_text(f"{json.dumps(line)}\n")
        watched = Watched(tmp_path / "line", ("rgb", "xyz"), inspected=inspected_files(tmp_path, {}), moves=moves)
        watched.search()
    watched.write(partner, mtime=200)
    watched.search()
    (late,) = watched.search(after=60)
    assert late.refusal is not None
    assert late.refusal.reason == "missing-modality"
    watched.write(alone, mtime=300)
    watched.write(partner, mtime=301)
    watched.search()
    (sample,) = watched.search(after=2)
    assert sample.refusal is None


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("rgb/1.png", "xyz/1.tiff", "xyz/1.ply"),
        ("rgb/1.png", "rgb/1.jpg", "xyz/1.ply"),
        ("rgb/1.png", "xyz/1.tiff", "depth/1.png"),
        ("1.png", "1.npz", "1.ply"),
        ("1.png", "1.jpg", "1.ply"),
        ("1.png", "1.jpg", "1.npz", "1.ply"),
    ],
)
@pytest.mark.failure_mode("Two images or two clouds of one name in a watched folder")
def test_a_second_image_or_cloud_of_one_name_is_refused_and_completes_no_other_part(
    tmp_path: Path, names: tuple[str, ...], restart: bool, moves: bool
) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=moves)
    files = [watched.write(name, mtime=100 + number) for number, name in enumerate(names)]
    watched.search()
    (sample,) = watched.search(after=2)
    assert sample.refusal is not None
    assert sample.refusal.reason == "unsupported"
    assert all(str(file) in str(sample.refusal) for file in files)
    assert "remove the file of another part, or rename it" in str(sample.refusal).lower()
    assert sorted(file.path for file in sample.files) == sorted(files)
    if moves:
        with open_done_folders(watched.folder, tmp_path / "done") as done:
            assert done.move(sample, "NG") == ""
        watched.watch.release(sample)
        assert not [path for path in watched.folder.rglob("*") if path.is_file()]
    elif restart:
        line = {"input": sample.name, "file_state": sample.state, "verdict": "NG", "reason": "unsupported"}
        (tmp_path / "results.jsonl").write_text(f"{json.dumps(line)}\n")
        watched = Watched(tmp_path / "line", ("rgb", "xyz"), inspected=inspected_files(tmp_path, {}))
    watched.search()
    assert watched.search(after=100) == [], "one line for all files"
    watched.write(names[0], mtime=200)
    watched.search()
    assert watched.search(after=10) == [], "the next image waits for its own cloud"
    watched.write(names[-1], mtime=201)
    watched.search()
    assert watched.names(after=2) == [names[0]]


def test_a_second_cloud_that_is_still_written_is_awaited(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"))
    for name in ("1.png", "1.npz", "1.ply"):
        watched.write(name)
    watched.search()
    watched.write("1.ply", b"picture and more")
    assert watched.search(after=2) == []
    (sample,) = watched.search(after=2)
    assert len(sample.files) == 3
    assert watched.search(after=100) == []


@pytest.mark.parametrize("moves", [False, True])
def test_a_cloud_that_comes_after_its_part_was_inspected_belongs_to_the_next(tmp_path: Path, moves: bool) -> None:
    """From the second part on, the sensor writes another format.

    The files of the first part remain in the folder, or the part is still being inspected.
    """
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=moves)
    watched.write("1.png", mtime=100)
    watched.write("1.ply", mtime=100)
    watched.search()
    assert watched.names(after=2) == ["1.png"]
    cloud = watched.write("1.npz", mtime=200)
    watched.search()
    assert watched.search(after=10) == []
    watched.write("1.png", mtime=201)
    watched.search()
    (sample,) = watched.search(after=2)
    assert sample.refusal is None
    assert sample.files[1].path == cloud
    assert watched.search(after=100) == []


def test_a_cloud_that_comes_after_its_part_and_has_no_image_is_refused(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"))
    watched.write("1.png", mtime=100)
    watched.write("1.ply", mtime=100)
    watched.search()
    assert watched.names(after=2) == ["1.png"]
    watched.write("1.npz", mtime=200)
    watched.search()
    (late,) = watched.search(after=60)
    assert late.refusal is not None
    assert late.refusal.reason == "missing-modality"


def test_a_lone_file_that_was_moved_may_return(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=True)
    image = watched.write("1.png", mtime=100)
    watched.search()
    (lost,) = watched.search(after=60)
    image.unlink()
    watched.watch.release(lost)
    watched.write("1.png", mtime=100)
    watched.write("1.ply", mtime=100)
    watched.search()
    assert watched.names(after=2) == ["1.png"]


def test_a_partner_that_could_not_be_moved_completes_no_other_part(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=True)
    image, cloud = watched.write("1.png", mtime=100), watched.write("1.ply", mtime=100)
    watched.search()
    (sample,) = watched.search(after=2)
    image.unlink()  # moved
    watched.watch.release(sample)
    watched.write("1.png", mtime=200)
    watched.search()
    assert watched.search(after=10) == []
    cloud.unlink()
    image.unlink()
    watched.watch.release(sample)
    watched.write("1.png", mtime=100)
    watched.write("1.ply", mtime=100)
    watched.search()
    assert watched.names(after=2) == ["1.png"], "files that return are inspected again"


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("bundle", ["same", "other"])
@pytest.mark.parametrize("reason", [None, "score", "timeout", "unreadable", "missing-modality"])
def test_a_restart_knows_the_files_of_earlier_parts(
    tmp_path: Path, reason: str | None, bundle: str, moves: bool
) -> None:
    """The cloud of a part stays in the folder: its move was interrupted, or inspected files are not moved."""
    watched = Watched(tmp_path / "line", ("rgb", "xyz"))
    watched.write("1.png", mtime=100)
    watched.write("1.ply", mtime=100)
    watched.search()
    (sample,) = watched.search(after=2)
    line = {"input": sample.name, "file_state": sample.state, "verdict": "NG" if reason else "OK", "reason": reason}
    (tmp_path / "results.jsonl").write_text(f"{json.dumps({**line, 'bundle_sha256': 'same'})}\n")
    stored = inspected_files(tmp_path, {"bundle_sha256": bundle})
    again = Watched(tmp_path / "line", ("rgb", "xyz"), inspected=stored, moves=moves)
    again.search()
    inspected = again.names(after=2)
    complete = reason != "missing-modality"
    assert inspected == (["1.png"] if complete and (moves or bundle == "other") else []), "the same pair"
    again.write("1.png", mtime=200)
    again.search()
    assert again.names(after=10) == []


@pytest.mark.parametrize("before", ["line", "./line", "more/../line"])
def test_a_restart_knows_the_files_by_another_name_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.chdir(tmp_path)
    watched = Watched(tmp_path / "line", ("rgb", "xyz"))
    for name in ("1.png", "1.ply", "2.png", "2.ply"):
        watched.write(name, mtime=100)
    watched.search()
    lines = [
        {"input": f"{before}/{sample.path.name}", "file_state": sample.state, "verdict": "OK", "reason": None}
        for sample in watched.search(after=2)
    ]
    Path("results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    watched.write("1.png", mtime=200)
    again = Watched(watched.folder, ("rgb", "xyz"), inspected=inspected_files(Path(), {}))
    again.search()
    assert again.names(after=10) == [], "the new image waits for its cloud, and the other part is finished"


@pytest.mark.parametrize("changed", ["1.png", "1.ply"])
@pytest.mark.parametrize("moves", [False, True])
def test_a_pair_of_which_one_file_is_replaced_during_the_inspection_waits(
    tmp_path: Path, changed: str, moves: bool
) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=moves)
    watched.write("1.png", mtime=100)
    watched.write("1.ply", mtime=100)
    watched.search()
    (sample,) = watched.search(after=2)
    watched.write(changed, b"new", mtime=200)
    watched.watch.release(sample)
    watched.search()
    assert watched.search(after=10) == [], "it cannot be distinguished from a file of the next part"
    other = {"1.png": "1.ply", "1.ply": "1.png"}[changed]
    watched.write(other, b"new", mtime=201)
    watched.search()
    assert watched.names(after=2) == ["1.png"]


@pytest.mark.parametrize(
    ("modalities", "expected"),
    [(("rgb",), ["1.png", "2.tiff"]), (("xyz",), ["1.tiff", "3.ply"]), (("rgb", "xyz"), ["1.png"])],
)
def test_the_content_of_a_complete_tiff_file_decides(
    tmp_path: Path, modalities: tuple[Modality, ...], expected: list[str]
) -> None:
    watched = Watched(tmp_path / "line", modalities)
    write_image(watched.folder / "1.png", np.zeros((8, 8, 3), np.uint8))
    write_cloud(watched.folder / "1.tiff", np.ones((8, 8, 3), np.float32))
    write_image(watched.folder / "2.tiff", np.zeros((8, 8, 3), np.uint8))
    watched.write("3.ply")
    whole = (watched.folder / "1.tiff").read_bytes()
    watched.write("1.tiff", whole[:1])  # The camera has begun to write.
    assert watched.names() == []
    watched.write("1.tiff", whole)
    assert watched.names(after=1) == []
    assert watched.names(after=2) == expected
    assert watched.names(after=10) == []


@pytest.mark.parametrize(("name", "missing"), [("1.png", "cloud"), ("1.ply", "image")])
@pytest.mark.failure_mode("An image in a watched folder whose cloud does not come, or a cloud without image")
def test_a_partner_that_does_not_come_is_a_reason_not_a_guess(tmp_path: Path, name: str, missing: str) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"))
    watched.write(name)
    watched.write("2.png")
    watched.write("2.ply")
    watched.search()
    assert watched.names(after=59) == ["2.png"]
    (sample,) = watched.search(after=1)
    assert sample.refusal is not None
    assert sample.refusal.reason == "missing-modality"
    assert f"no {missing} that belongs to the file" in str(sample.refusal)
    assert watched.names(after=100) == []


def test_moved_files_may_return(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "line", moves=True, excluded=(tmp_path / "line" / "done",))
    watched.write("a.png", mtime=1000)
    watched.search()
    (sample,) = watched.search(after=2)
    assert watched.names(after=2) == [], "the file is in work"
    with open_done_folders(watched.folder, watched.folder / "done") as done:
        assert done.move(sample, "OK") == ""
    watched.watch.release(sample)
    assert watched.names(after=2) == []
    shutil.copy2(watched.folder / "done" / "OK" / "a.png", sample.path)
    watched.search()
    assert watched.names(after=2) == ["a.png"]


def test_move_keeps_folders_and_replaces_nothing(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"))
    with open_done_folders(watched.folder, tmp_path / "done") as done:
        for content in (b"1", b"22"):
            watched.write("rgb/a.png", content)
            watched.write("xyz/a.ply", content)
            watched.search()
            (sample,) = watched.search(after=2)
            assert done.move(sample, "NG") == ""
    moved = sorted(path.relative_to(tmp_path / "done").as_posix() for path in (tmp_path / "done").rglob("a*"))
    assert moved == ["NG/rgb/a-2.png", "NG/rgb/a.png", "NG/xyz/a-2.ply", "NG/xyz/a.ply"]
    assert (tmp_path / "done/NG/rgb/a-2.png").read_bytes() == b"22"


def test_a_file_that_was_replaced_after_the_inspection_is_not_moved(tmp_path: Path) -> None:
    """No file gets into the folder OK without a look."""
    watched = Watched(tmp_path / "line", moves=True)
    watched.write("a.png", mtime=1000)
    watched.search()
    (sample,) = watched.search(after=2)
    watched.write("a.png", b"another", mtime=1001)
    with open_done_folders(watched.folder, tmp_path / "done") as done:
        assert done.move(sample, "OK") == f"{sample.path} has been replaced since the inspection"
    assert sample.path.read_bytes() == b"another"
    assert not list((tmp_path / "done").rglob("*.png"))
    watched.search()
    assert watched.names(after=2) == ["a.png"]


def test_a_cloud_next_to_the_watched_folder_is_not_moved(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    watched = Watched(tmp_path / "rgb", ("rgb", "xyz"), moves=True)
    watched.write("1.png")
    cloud = watched.write("../xyz/1.ply")
    watched.search()
    (sample,) = watched.search(after=2)
    with open_done_folders(watched.folder, tmp_path / "done") as done:
        assert done.move(sample, "OK") == f"{tmp_path / 'xyz' / '1.ply'} is not in {watched.folder}"
    assert cloud.exists()
    assert sample.path.exists()


def test_a_relative_link_is_not_moved(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "line", moves=True)
    (tmp_path / "photo.png").write_bytes(b"1")
    link = watched.folder / "a.png"
    link.symlink_to("../photo.png")
    watched.search()
    (sample,) = watched.search(after=2)
    with open_done_folders(watched.folder, tmp_path / "elsewhere" / "done") as done:
        assert done.move(sample, "OK") == f"{sample.path} is a relative link"
    assert link.read_bytes() == b"1"


def test_a_file_that_is_replaced_at_the_moment_of_the_move_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path / "line", moves=True)
    watched.write("a.png", mtime=1000)
    watched.search()
    (sample,) = watched.search(after=2)
    rename = Path.rename

    def rename_another(path: Path, target: Path) -> Path:
        if path == sample.path:
            watched.write("a.png", b"another", mtime=1001)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_another)
    with open_done_folders(watched.folder, tmp_path / "done") as done:
        assert "replaced" in done.move(sample, "OK")
    assert sample.path.read_bytes() == b"another"
    assert [path.name for path in (tmp_path / "done" / "OK").iterdir()] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from cmdiad_runtime.inspection.arrived import Arrived, FileState
from cmdiad_runtime.inspection.done_folders import open_done_folders

line, done, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
calls = {"left": number}

def killing(real):
    def rename(path, target):
        calls["left"] -= 1
        if not calls["left"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, target)
    return rename

files = tuple(map(FileState.of, (line / "rgb/1.png", line / "xyz/1.ply")))
with open_done_folders(line, done) as folders:
    Path.rename = killing(Path.rename)
    folders.move(Arrived(files[0].path, files), "OK")
"""
"""Program that moves a pair and is killed at the n-th renaming."""


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.failure_mode("`--move-to` that is killed between the image and the cloud of a part")
def test_a_move_that_was_killed_is_finished_by_the_next_start(tmp_path: Path, number: int) -> None:
    watched, done = Watched(tmp_path / "line", ("rgb", "xyz"), moves=True), tmp_path / "done"
    image, cloud = watched.write("rgb/1.png", mtime=100), watched.write("xyz/1.ply", mtime=100)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, watched.folder, done, str(number)], check=False, env=os.environ
    )
    assert killed.returncode == -signal.SIGKILL
    assert cloud.exists() == (number < 4)
    if not image.exists():
        watched.write("rgb/1.png", b"of the next part", mtime=200)
    with open_done_folders(watched.folder, done):
        pass
    watched.search()
    assert watched.search(after=10) == [], "the next image waits for its own cloud"
    assert not cloud.exists()
    assert image.exists() == (number > 1)
    assert sorted(path.relative_to(done).as_posix() for path in done.rglob("*1*")) == ["OK/rgb/1.png", "OK/xyz/1.ply"]
    assert sorted(path.name for path in done.iterdir() if path.suffix == ".json") == []


def test_a_file_of_the_next_part_is_not_moved_for_the_part_before(tmp_path: Path) -> None:
    watched, done = Watched(tmp_path / "line", ("rgb", "xyz"), moves=True), tmp_path / "done"
    watched.write("rgb/1.png", mtime=100)
    cloud = watched.write("xyz/1.ply", mtime=100)
    subprocess.run([sys.executable, "-c", KILLED, watched.folder, done, "3"], check=False, env=os.environ)
    watched.write("xyz/1.ply", b"of the next part", mtime=200)
    with open_done_folders(watched.folder, done):
        assert cloud.read_bytes() == b"of the next part"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"{}",
        b'{"watched": "LINE", "files": []}',
        b'{"watched": "LINE", "files": ["abcd"]}',
        b'{"watched": "LINE", "files": [["1.png", "1", {}, "OK/1.png"]]}',
        b'{"watched": "LINE", "files": [["1.png\\u0000", 4, 5, "OK/1.png"]]}',
        b'{"watched": "LINE", "files": [["../secret", 4, 5000000000, "OK/1.png"]]}',
        b'{"watched": "LINE", "files": [["SECRET", 4, 5000000000, "OK/1.png"]]}',
        b'{"watched": "LINE", "files": [["1.png", 4, 5, "../1.png"]]}',
        b'{"watched": "LINE", "files": [["1.png", 4',
        '{"watched": "LINE", "files": []}'.encode("utf-16"),
        b'{"watched": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_record_of_a_move_is_reported_before_the_start(tmp_path: Path, content: bytes) -> None:
    """A record that is ignored leaves a file that completes another part."""
    line, done, secret = tmp_path / "line", tmp_path / "done", tmp_path / "secret"
    for folder in (line, done):
        folder.mkdir()
    secret.write_bytes(b"1234")
    os.utime(secret, (5, 5))
    record = done / ".cmdiad.move.json"
    record.write_bytes(content.replace(b"LINE", os.fsencode(line)).replace(b"SECRET", os.fsencode(secret)))
    with (
        pytest.raises(OutputError, match=r"an unfinished move .* \(the record is damaged\)\. .* by hand, then remove"),
        open_done_folders(line, done),
    ):
        pass
    assert record.exists()
    assert secret.exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link"])
def test_a_record_of_a_move_that_is_no_file_is_reported_before_the_start(tmp_path: Path, kind: str) -> None:
    record = tmp_path / "done" / ".cmdiad.move.json"
    record.parent.mkdir()
    if kind == "folder":
        record.mkdir()
    elif kind == "pipe":
        os.mkfifo(record)
    else:
        record.symlink_to("none")
    with pytest.raises(OutputError, match="an unfinished move of"), open_done_folders(tmp_path, record.parent):
        pass


def test_a_move_that_was_killed_is_not_forgotten_for_another_watched_folder(tmp_path: Path) -> None:
    watched, done = Watched(tmp_path / "line", ("rgb", "xyz"), moves=True), tmp_path / "done"
    watched.write("rgb/1.png", mtime=100)
    cloud = watched.write("xyz/1.ply", mtime=100)
    subprocess.run([sys.executable, "-c", KILLED, watched.folder, done, "3"], check=False, env=os.environ)
    (tmp_path / "other").mkdir()
    with (
        pytest.raises(OutputError, match=f"the files are in the folder {watched.folder.resolve()}"),
        open_done_folders(tmp_path / "other", done),
    ):
        pass
    with open_done_folders(watched.folder, done):
        assert not cloud.exists()


def test_a_file_that_a_kill_left_under_a_hidden_name_is_not_replaced(tmp_path: Path) -> None:
    watched, done = Watched(tmp_path / "line"), tmp_path / "done"
    watched.write("1.png")
    watched.search()
    (sample,) = watched.search(after=2)
    left = done / "OK" / ".1.png.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of the part before")
    with open_done_folders(watched.folder, done) as folders:
        assert folders.move(sample, "OK") == ""
    assert left.read_bytes() == b"of the part before"
    assert (done / "OK" / "1-2.png").exists()


def rename_no_cloud(path: Path, target: Path, rename: Callable[[Path, Path], Path] = Path.rename) -> Path:
    """Rename a file as `Path.rename` does, but refuse clouds."""
    if path.suffix == ".ply":
        raise PermissionError(13, "Permission denied")
    return rename(path, target)


def test_a_cloud_that_cannot_be_moved_is_moved_before_the_next_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=True)
    for part in ("1", "2"):
        watched.write(f"{part}.png")
        watched.write(f"{part}.ply")
    watched.search()
    samples = watched.search(after=2)
    with open_done_folders(watched.folder, tmp_path / "done") as done:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename_no_cloud)
            assert done.move(samples[0], "OK") == "permission denied"
            assert "an unfinished move" in done.move(samples[1], "OK")
        assert done.move(samples[1], "OK") == ""
    assert not list(watched.folder.iterdir())


def test_a_sample_of_one_file_keeps_the_record_of_an_unfinished_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the cloud of the first part would complete another part after a restart."""
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=True)
    watched.write("1.png")
    cloud = watched.write("1.ply")
    watched.write("2.png")
    watched.search()
    (pair,) = watched.search(after=2)
    (alone,) = watched.search(after=100)
    with open_done_folders(watched.folder, tmp_path / "done") as done:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename_no_cloud)
            assert done.move(pair, "OK") == "permission denied"
        assert done.move(alone, "NG") == ""
    assert cloud.exists()
    with open_done_folders(watched.folder, tmp_path / "done"):
        assert not cloud.exists()


def test_the_partner_of_a_file_that_was_replaced_is_moved(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "line", ("rgb", "xyz"), moves=True)
    image, cloud = watched.write("1.png", mtime=100), watched.write("1.ply", mtime=100)
    watched.search()
    (sample,) = watched.search(after=2)
    watched.write("1.png", b"of the next part", mtime=200)
    with open_done_folders(watched.folder, tmp_path / "done") as done:
        assert done.move(sample, "OK") == f"{image} has been replaced since the inspection"
    assert image.exists()
    assert not cloud.exists()


def test_folder_for_inspected_files_must_be_another_one(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the watched folder itself"), open_done_folders(tmp_path, tmp_path):
        pass


def test_digest_set_holds_what_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = DigestSet()
    names = [f"photos/{number}.png 10:20" for number in range(70_000)]
    for name in names[::2]:
        digests.add(name)
    assert [name in digests for name in names] == [True, False] * 35_000
