"""Every reader returns what was written, and turns arbitrary bytes into an InputError or a whole array."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cloud_files import pcd, ply, records
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import RGB_SUFFIXES, XYZ_SUFFIXES, read_rgb, read_xyz
from cmdiad_runtime.support.missing_points import without_missing_numbers
from strategies import clouds, images

Cloud = npt.NDArray[np.float32]

STARTS = {
    ".png": b"\x89PNG\r\n\x1a\n",
    ".jpg": b"\xff\xd8\xff",
    ".jpeg": b"\xff\xd8\xff",
    ".jfif": b"\xff\xd8\xff",
    ".tiff": b"II*\x00",
    ".tif": b"MM\x00*",
    ".ply": b"ply\nformat binary_little_endian 1.0\n",
    ".pcd": b"# .PCD v0.7\nVERSION .7\nFIELDS x y z\n",
    ".npz": b"PK\x03\x04",
    ".bmp": b"BM\x36\x03"
    + bytes(6)
    + b"\x36\x00\x00\x00\x28\x00\x00\x00\x10\x00\x00\x00\x10\x00\x00\x00\x01\x00\x18\x00",
    ".webp": b"RIFF\x24\x00\x00\x00WEBPVP8 ",
    ".jp2": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    ".j2k": b"\xff\x4f\xff\x51",
}
"""Beginnings that bring arbitrary bytes past the first check of a reader."""


def grid_notes(cloud: Cloud) -> tuple[str, ...]:
    return (f"obj_info num_cols {cloud.shape[1]}", f"obj_info num_rows {cloud.shape[0]}")


WRITERS: dict[str, Callable[[Path, Cloud], Any]] = {
    "cloud.tiff": lambda path, cloud: tifffile.imwrite(path, cloud, photometric="rgb"),
    "cloud.npz": lambda path, cloud: np.savez(path, xyz=cloud),
    "packed.npz": lambda path, cloud: np.savez_compressed(path, xyz=cloud.astype(np.float64)),
    "little.ply": lambda path, cloud: path.write_bytes(ply({"vertex": records(cloud)}, notes=grid_notes(cloud))),
    "text.ply": lambda path, cloud: path.write_bytes(
        ply({"vertex": records(cloud)}, form="ascii", notes=grid_notes(cloud))
    ),
    "big.ply": lambda path, cloud: path.write_bytes(
        ply({"vertex": records(cloud)}, form="binary_big_endian", notes=grid_notes(cloud))
    ),
    "binary.pcd": lambda path, cloud: path.write_bytes(pcd(cloud)),
    "text.pcd": lambda path, cloud: path.write_bytes(pcd(cloud, data="ascii")),
    "packed.pcd": lambda path, cloud: path.write_bytes(pcd(cloud, data="binary_compressed")),
}


@pytest.mark.parametrize("name", WRITERS)
@given(cloud=clouds)
def test_clouds_are_read_as_they_were_written(tmp_path: Path, name: str, cloud: Cloud) -> None:
    path = tmp_path / name
    WRITERS[name](path, cloud)
    expected = without_missing_numbers(cloud)  # The same array, unless points are repeated.
    if min(cloud.shape[:2]) < 2:  # one row or column is not an organised cloud in every format
        try:
            assert np.array_equal(read_xyz(path), expected)
        except InputError:
            return
    else:
        assert np.array_equal(read_xyz(path), expected)


@given(image=images)
def test_images_are_read_as_they_were_written(tmp_path: Path, image: npt.NDArray[np.uint8]) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    read = read_rgb(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, image)


@pytest.mark.parametrize("suffix", XYZ_SUFFIXES)
@given(tail=st.binary(max_size=300), with_start=st.booleans())
def test_any_bytes_are_a_whole_cloud_or_an_input_error(
    tmp_path: Path, suffix: str, tail: bytes, with_start: bool
) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes((STARTS[suffix] if with_start else b"") + tail)
    try:
        cloud = read_xyz(path)
    except InputError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
        return
    assert cloud.dtype == np.float32
    assert cloud.ndim == 3
    assert cloud.shape[2] == 3
    assert np.isfinite(cloud).all()


@pytest.mark.parametrize("suffix", RGB_SUFFIXES)
@given(tail=st.binary(max_size=300), with_start=st.booleans())
def test_any_bytes_are_a_whole_image_or_an_input_error(
    tmp_path: Path, suffix: str, tail: bytes, with_start: bool
) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes((STARTS[suffix] if with_start else b"") + tail)
    try:
        image = read_rgb(path)
    except InputError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
