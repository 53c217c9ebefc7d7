"""Depth images: the pinhole camera, where intrinsics are looked for, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cloud_files import INTRINSICS, depth_of, refusal, write_intrinsics
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.support import sizes

DEPTH = depth_of()


def save_png(path: Path, depth: Any = DEPTH) -> Path:
    Image.fromarray(depth).save(path)
    return path


def pinhole(depth: np.ndarray, *, fx: float, fy: float, cx: float, cy: float, depth_scale: float) -> np.ndarray:
    """Pixel by pixel in float64, straight from the formula."""
    points = np.zeros((*depth.shape, 3))
    for v, row in enumerate(depth.tolist()):
        for u, value in enumerate(row):
            z = value * depth_scale
            points[v, u] = ((u - cx) * z / fx, (v - cy) * z / fy, z)
    return points


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff"])
def test_points_are_the_pinhole_camera(tmp_path: Path, suffix: str) -> None:
    write_intrinsics(tmp_path / "intrinsics.json")
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        save_png(path)
    else:
        tifffile.imwrite(path, DEPTH)
    points = read_xyz(path)
    np.testing.assert_allclose(points, pinhole(DEPTH, **INTRINSICS), rtol=1e-6, atol=0)
    assert points.dtype == np.float32 and points.flags.writeable and points.flags.c_contiguous
    assert np.argwhere((points == 0).any(axis=-1)).tolist() == [[0, 0], [3, 5]]


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_tiff_of_every_type_is_the_same_cloud(tmp_path: Path, byteorder: Any, dtype: Any) -> None:
    write_intrinsics(tmp_path / "a.json")
    tifffile.imwrite(tmp_path / "a.tiff", DEPTH.astype(dtype), byteorder=byteorder)
    np.testing.assert_allclose(read_xyz(tmp_path / "a.tiff"), pinhole(DEPTH, **INTRINSICS), rtol=1e-6, atol=0)


def test_floating_point_depth_in_metres_needs_no_scale(tmp_path: Path) -> None:
    write_intrinsics(tmp_path / "a.json", depth_scale=None)
    tifffile.imwrite(tmp_path / "a.tiff", DEPTH.astype(np.float32) / 1000)
    np.testing.assert_allclose(read_xyz(tmp_path / "a.tiff"), pinhole(DEPTH, **INTRINSICS), rtol=1e-6, atol=0)


def test_missing_depth_becomes_zeros(tmp_path: Path) -> None:
    write_intrinsics(tmp_path / "a.json", depth_scale=1)
    depth = np.full((4, 5), 0.5, np.float32)
    depth[0, 0], depth[1, 2], depth[3, 4], depth[2, 2] = 0, np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "a.tiff", depth)
    holes = (read_xyz(tmp_path / "a.tiff") == 0).all(axis=-1)
    assert np.argwhere(holes).tolist() == [[0, 0], [1, 2], [2, 2], [3, 4]]


def test_points_on_the_optical_axis_are_not_taken_for_missing(tmp_path: Path) -> None:
    """Everywhere else a coordinate of exactly zero means that the sensor saw nothing."""
    write_intrinsics(tmp_path / "a.json", cx=8, cy=6)
    points = read_xyz(save_png(tmp_path / "a.png"))
    np.testing.assert_array_equal((points != 0).all(axis=-1), DEPTH != 0)
    np.testing.assert_allclose(points, pinhole(DEPTH, **{**INTRINSICS, "cx": 8, "cy": 6}), rtol=1e-6, atol=1.1e-9)


def test_nearest_intrinsics_are_taken(tmp_path: Path) -> None:
    (tmp_path / "depth").mkdir()
    path = save_png(tmp_path / "depth" / "a.png")
    places = [tmp_path / "intrinsics.json", tmp_path / "depth" / "intrinsics.json", tmp_path / "depth" / "a.json"]
    for scale, place in zip((0.004, 0.002, 0.001), places, strict=True):
        write_intrinsics(place, depth_scale=scale)
        np.testing.assert_allclose(read_xyz(path)[..., 2], DEPTH * scale, rtol=1e-6)


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "depth").mkdir()
    write_intrinsics(tmp_path / "intrinsics.json")
    save_png(tmp_path / "depth" / "a.png")
    monkeypatch.chdir(tmp_path / "depth")
    assert read_xyz("a.png").any()


# Depth that is refused


def test_missing_intrinsics_name_where_they_were_looked_for(tmp_path: Path) -> None:
    message = refusal(read_xyz, save_png(tmp_path / "a.png"))
    for place in (tmp_path / "a.json", tmp_path / "intrinsics.json", tmp_path.parent / "intrinsics.json"):
        assert str(place) in message
    assert "fx, fy, cx, cy" in message and "depth_scale" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fx": None}, "no fx"),
        ({"cy": None}, "no cy"),
        ({"depth_scale": None}, "no depth_scale"),
        ({"fx": 0}, "fx = 0.0"),
        ({"fy": -3}, "fy = -3.0"),
        ({"fx": "600"}, 'fx = "600"'),
        ({"fx": True}, "fx = true"),
        ({"cx": float("nan")}, "cx = NaN"),
        ({"cx": [1]}, "cx = [1.0]"),
        ({"depth_scale": 0}, "depth_scale = 0.0"),
        ({"depth_scale": 10**400}, "depth_scale = Infinity"),
    ],
)
def test_wrong_intrinsics(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    where = write_intrinsics(tmp_path / "a.json", **changes)
    assert f"found {words}." in refusal(read_xyz, save_png(tmp_path / "a.png"), subject=where)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"fx": }', "[" * 50_000, "\udcff", ""])
def test_intrinsics_that_are_no_json_object(tmp_path: Path, text: str) -> None:
    where = tmp_path / "intrinsics.json"
    where.write_bytes(text.encode("utf-8", "surrogateescape"))
    refusal(read_xyz, save_png(tmp_path / "a.png"), subject=where)


@pytest.mark.parametrize("changes", [{"width": 640}, {"height": 480}, {"width": "17"}])
def test_intrinsics_of_another_resolution(tmp_path: Path, changes: dict[str, Any]) -> None:
    where = write_intrinsics(tmp_path / "intrinsics.json", **{"width": 17, "height": 12, **changes})
    path = save_png(tmp_path / "a.png")
    message = refusal(read_xyz, path, subject=where)
    assert f"as in {path}" in message and "resolution" in message
    write_intrinsics(where, width=17, height=12)
    assert read_xyz(path).any()


def test_millimetres(tmp_path: Path) -> None:
    where = write_intrinsics(tmp_path / "a.json", depth_scale=1)
    message = refusal(read_xyz, save_png(tmp_path / "a.png"))
    assert "surely millimetres" in message and f"set depth_scale to 0.001 in {where}" in message


def test_negative_depth(tmp_path: Path) -> None:
    write_intrinsics(tmp_path / "a.json")
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 5), -500, np.float32))
    assert "a negative depth (-0.5 m)" in refusal(read_xyz, tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.ones((4, 5), np.uint8), "8 bits per channel."),
        (np.ones((4, 5, 3), np.uint8), "8 bits per channel that is not grey"),
        (np.ones((4, 5), bool), "1 bit per channel"),
    ],
)
def test_png_that_is_no_depth(tmp_path: Path, pixels: Any, found: str) -> None:
    write_intrinsics(tmp_path / "intrinsics.json")
    message = refusal(read_xyz, save_png(tmp_path / "a.png", pixels))
    assert found in message and "16-bit grey PNG" in message


def test_no_png(tmp_path: Path) -> None:
    write_intrinsics(tmp_path / "intrinsics.json")
    Image.fromarray(np.ones((4, 5, 3), np.uint8)).save(tmp_path / "a.png", format="JPEG")
    assert "a file that is not a PNG image" in refusal(read_xyz, tmp_path / "a.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float16])
def test_tiff_of_another_type(tmp_path: Path, dtype: Any) -> None:
    write_intrinsics(tmp_path / "intrinsics.json")
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 5), dtype))
    message = refusal(read_xyz, tmp_path / "a.tif")
    assert f"a depth image of {np.dtype(dtype)} values" in message and "uint16 or float32" in message


def test_truncated_anywhere(tmp_path: Path) -> None:
    write_intrinsics(tmp_path / "intrinsics.json")
    path = save_png(tmp_path / "a.png")
    whole = path.read_bytes()
    for length in (8, 20, 26, 40, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        assert "damaged or incomplete" in refusal(read_xyz, path)


def test_bomb_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_intrinsics(tmp_path / "intrinsics.json")
    path = save_png(tmp_path / "a.png")
    monkeypatch.setattr(sizes, "MAX_POINTS", 203)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert "17×12 points" in refusal(read_xyz, path)
