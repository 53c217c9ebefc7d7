"""Which files are inspected, and what they are called in the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inputs import list_inputs, output_names, read_sample
from cmdiad_runtime.preprocess.prepare import Preprocessing
from helpers import sample_files


@pytest.mark.parametrize(("modality", "suffix"), [("rgb", ".png"), ("xyz", ".tiff")])
def test_folder_of_a_data_set_gives_the_modalitys_own_files(data: Path, modality: str, suffix: str) -> None:
    files = list_inputs([data / "gear" / "test"], modality)  # type: ignore[arg-type]
    assert len(files) == 5
    assert files == sorted(files)
    assert {(f.parent.name, f.suffix) for f in files} == {(modality, suffix)}


def test_plain_folder_is_searched_by_suffix(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.jpeg", "d.tiff", "e.txt", "gt/mask.png", "sub/f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in list_inputs([tmp_path], "rgb")] == ["a.JPG", "b.png", "c.jpeg", "f.png"]
    assert [p.name for p in list_inputs([tmp_path], "xyz")] == ["d.tiff"]


def test_named_files_are_taken_as_they_are_in_order(tmp_path: Path) -> None:
    named = [tmp_path / "z.bmp", tmp_path / "missing.png", tmp_path / "a.png"]
    assert list_inputs(named, "rgb") == named


def test_folder_without_a_file_of_the_modality(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"no xyz file; expected files ending in \.tiff, \.tif") as refused:
        list_inputs([tmp_path], "xyz")
    assert refused.value.subject == str(tmp_path)


def test_output_names_are_distinct_and_tell_where_from() -> None:
    paths = [Path(p) for p in ("d/test/good/rgb/000.png", "d/test/dent/rgb/000.png", "x.png", "./x.jpg", "../x.png")]
    names = output_names(paths)
    assert names[:3] == ["test-good-rgb-000", "test-dent-rgb-000", "x"]
    assert len(set(names)) == len(names)
    assert not any("/" in name or name.startswith(".") for name in names)


def test_output_names_do_not_collide_with_numbered_ones() -> None:
    names = output_names([Path("x.png"), Path("x.jpg"), Path("x-2.png"), Path("x.jpeg")])
    assert len(set(names)) == 4


def test_sample_of_one_modality_reads_one_file(data: Path) -> None:
    rgb, xyz = (sample_files(data, "test", "good", m)[0] for m in ("rgb", "xyz"))
    camera = read_sample(rgb, Preprocessing("rgb"))
    assert (camera.name, camera.xyz) == (str(rgb), None)
    assert camera.rgb is not None
    assert camera.rgb.dtype == np.uint8
    sensor = read_sample(xyz, Preprocessing("xyz"))
    assert (sensor.name, sensor.rgb) == (str(xyz), None)
    assert sensor.xyz is not None
    assert sensor.xyz.dtype == np.float32


def test_cloud_is_found_where_the_detector_needs_it(data: Path, tmp_path: Path) -> None:
    rgb = sample_files(data, "test", "good", "rgb")[0]
    masked = Preprocessing("rgb", rgb_mask="cloud")
    assert read_sample(rgb, masked).xyz is not None
    beside = tmp_path / "part.png"
    beside.write_bytes(rgb.read_bytes())
    with pytest.raises(InputError, match=r"no cloud .*part\.tiff") as refused:
        read_sample(beside, masked)
    assert refused.value.subject == str(beside)
    (tmp_path / "part.tif").write_bytes(sample_files(data, "test", "good", "xyz")[0].read_bytes())
    assert read_sample(beside, masked).xyz is not None
