"""Which file of a part is absent, and which is there but cannot be used."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.pattern_files import PartFinder, find_pattern_inputs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def listed(folder: Path, *paths: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_pattern_inputs(paths or [folder]).paths]


def patterns(folder: Path) -> dict[str, str]:
    finder = PartFinder()
    return {name: finder.files_of(folder / name).pattern for name in listed(folder)}


def test_every_part_of_a_data_set_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "good/rgb/0.png", "good/rgb/1.png", "good/xyz/1.tiff", "good/xyz/2.tiff", "good/gt/0.png")
    assert patterns(tmp_path) == {"good/rgb/0.png": "rgb", "good/rgb/1.png": "both", "good/xyz/2.tiff": "xyz"}


def test_every_part_of_a_plain_folder_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "b.ply", "c.npz", "c.json", "sub/d.jpg", "b.heic.txt")
    assert patterns(tmp_path) == {"a.png": "rgb", "b.png": "both", "sub/d.jpg": "rgb", "c.npz": "xyz"}


def test_named_image_and_cloud_of_one_part_are_one_input(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.ply", "b.ply")
    assert listed(tmp_path, tmp_path / "a.ply", tmp_path / "a.png", tmp_path / "b.ply") == ["a.png", "b.ply"]


def test_folder_without_any_file_stays_an_input(tmp_path: Path) -> None:
    touch(tmp_path, "full/a.ply", "empty/notes.txt")
    assert listed(tmp_path, tmp_path / "full", tmp_path / "empty") == ["empty", "full/a.ply"]


def test_skipped_files_are_counted_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.ply", "c.heic", "a_mask.png")
    files = find_pattern_inputs([tmp_path])
    assert files.skipped_text == "skipped: 1 masks, 1 files of another format (1 .heic)"


def test_content_of_a_tiff_file_decides(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "photo.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "pair.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "pair.tiff", np.ones((8, 8, 3), np.float32), photometric="rgb")
    tifffile.imwrite(tmp_path / "cloud.tif", np.ones((8, 8, 3), np.float32), photometric="rgb")
    assert patterns(tmp_path) == {"photo.tif": "rgb", "pair.tif": "both", "cloud.tif": "xyz"}


@pytest.mark.parametrize(("folder", "pattern"), [("rgb", "both"), ("xyz", "both"), ("depth", "xyz")])
@pytest.mark.failure_mode("A file that is named without its folder, inside the folder of a modality")
def test_files_in_the_working_directory_have_their_partners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, pattern: str
) -> None:
    touch(tmp_path, "rgb/1.png", "xyz/1.tiff", "depth/2.png", folder + "/more/notes.txt")
    monkeypatch.chdir(tmp_path / folder)
    (path,) = find_pattern_inputs([Path()]).paths
    assert PartFinder().files_of(path).pattern == pattern
    assert PartFinder().files_of(Path("more", "..", path)).pattern == pattern


@pytest.mark.parametrize("broken", ["link", "folder", "pipe", "empty file"])
def test_file_that_cannot_be_used_is_not_absent(tmp_path: Path, broken: str) -> None:
    touch(tmp_path, "rgb/0.png", "xyz/1.ply")
    cloud = tmp_path / "xyz" / "0.ply"
    {
        "link": lambda: cloud.symlink_to(tmp_path / "nowhere"),
        "folder": cloud.mkdir,
        "pipe": lambda: os.mkfifo(cloud),
        "empty file": cloud.touch,
    }[broken]()
    assert PartFinder().files_of(tmp_path / "rgb" / "0.png").pattern == "both"


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("rgb/0.png", "xyz/0.stl"),
        ("rgb/0.png", "depth/0.Tiff"),
        ("xyz/0.ply", "rgb/0.heic"),
        ("xyz/0.ply", "rgb/0.Jpg"),
        ("0.png", "0.stl"),
        ("0.png", "0.Ply"),
        ("0.ply", "0.heic"),
        ("RGB/0.png", "XYZ/0.tiff"),
        ("XYZ/0.tiff", "RGB/0.png"),
        ("rgb/0.png", "Depth/0.tiff"),
        ("RGB/0.png", "xyz/0.ply"),
    ],
)
def test_other_file_that_is_not_read_is_no_absent_modality(tmp_path: Path, part: str, other: str) -> None:
    touch(tmp_path, part, other)
    with pytest.raises(InputError, match=Path(other).name) as raised:
        PartFinder().files_of(tmp_path / part)
    assert raised.value.reason == "unsupported"


@pytest.mark.parametrize(
    ("cloud", "second"), [("depth/0.png", "xyz/0.tiff"), ("xyz/0.tiff", "depth/0.png"), ("xyz/0.ply", "xyz/0.tiff")]
)
def test_named_cloud_is_never_replaced_by_a_second_one(tmp_path: Path, cloud: str, second: str) -> None:
    touch(tmp_path, "rgb/0.png", cloud)
    assert PartFinder().files_of(tmp_path / cloud).pattern == "both"
    touch(tmp_path, second)
    with pytest.raises(InputError, match=second) as raised:
        PartFinder().files_of(tmp_path / cloud)
    assert raised.value.reason == "unsupported"
    assert PartFinder().files_of(tmp_path / "rgb" / "0.png").pattern == "both"


def test_files_that_accompany_a_part_are_no_modality(tmp_path: Path) -> None:
    touch(tmp_path, "0.png", "0.json", "0.txt", "0.jpg", "0_mask.png")
    (tmp_path / "0").mkdir()
    assert PartFinder().files_of(tmp_path / "0.png").pattern == "rgb"


def test_file_that_arrives_later_is_seen(tmp_path: Path) -> None:
    touch(tmp_path, "rgb/0.png", "xyz/1.ply")
    finder = PartFinder()
    assert finder.files_of(tmp_path / "rgb" / "0.png").pattern == "rgb"
    touch(tmp_path, "xyz/0.ply")
    assert finder.files_of(tmp_path / "rgb" / "0.png").pattern == "both"


def test_file_that_arrives_in_the_same_step_of_the_clock_is_seen(tmp_path: Path) -> None:
    touch(tmp_path, "rgb/0.png", "xyz/1.ply")
    now = time.time_ns() + 60_000_000_000  # ahead, so that the folder counts as changed just now on a slow machine too
    finder = PartFinder()
    os.utime(tmp_path / "xyz", ns=(now, now))
    assert finder.files_of(tmp_path / "rgb" / "0.png").pattern == "rgb"
    touch(tmp_path, "xyz/0.stl")
    os.utime(tmp_path / "xyz", ns=(now, now))
    with pytest.raises(InputError, match=r"0\.stl"):
        finder.files_of(tmp_path / "rgb" / "0.png")


@pytest.mark.parametrize("broken", ["link", "file"])
def test_broken_folder_of_a_modality_is_no_absent_modality(tmp_path: Path, broken: str) -> None:
    touch(tmp_path, "rgb/0.png")
    folder = tmp_path / "xyz"
    {"link": lambda: folder.symlink_to(tmp_path / "unmounted"), "file": folder.touch}[broken]()
    with pytest.raises(OSError, match="xyz"):
        PartFinder().files_of(tmp_path / "rgb" / "0.png")


def test_folder_that_cannot_be_searched_is_no_absent_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "rgb/0.png")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(PermissionError):
        PartFinder().files_of(tmp_path / "rgb" / "0.png")
