"""NPZ: clouds and depth images come back exactly; pickles, bombs and wrong arrays are refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_files import POINTS, depth_of, refusal
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.support import sizes

K = np.array([40.5, 41.25, 8.25, 5.75])


def save(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "cloud.npz", **arrays)
    return tmp_path / "cloud.npz"


def save_members(tmp_path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(tmp_path / "cloud.npz", "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return tmp_path / "cloud.npz"


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version)
    return file.getvalue()


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_cloud_comes_back_exactly(tmp_path: Path, write: Any, dtype: str, order: Any) -> None:
    write(tmp_path / "a.npz", other=np.arange(3), xyz=POINTS.astype(dtype, order=order))
    points = read_xyz(tmp_path / "a.npz")
    np.testing.assert_array_equal(points, POINTS)
    assert points.dtype == np.float32 and points.dtype.isnative
    assert points.flags.writeable and points.flags.c_contiguous


def test_second_version_of_the_array_format(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_xyz(save_members(tmp_path, {"xyz.npy": npy(POINTS, (2, 0))})), POINTS)


def test_missing_points_become_zeros(tmp_path: Path) -> None:
    gaps = POINTS.copy()
    gaps[2, 3, 1] = np.nan
    points = read_xyz(save(tmp_path, xyz=gaps))
    assert np.argwhere((points == 0).all(axis=-1)).tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("scale", "dtype"), [(0.001, np.uint16), (0.001, np.float32), (None, np.float32), (None, np.float64)]
)
def test_depth_is_the_pinhole_camera(tmp_path: Path, scale: float | None, dtype: Any) -> None:
    millimetres = depth_of()
    depth = millimetres.astype(dtype) if scale else millimetres.astype(dtype) / 1000
    points = read_xyz(save(tmp_path, depth=depth, intrinsics=K, **({} if scale is None else {"depth_scale": scale})))
    fx, fy, cx, cy = K
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            z = float(depth[v, u]) * (scale or 1.0)
            expected = [(u - cx) * z / fx, (v - cy) * z / fy, z]
            np.testing.assert_allclose(points[v, u], expected, rtol=1e-6, atol=0)


# What is refused


@pytest.mark.parametrize("shape", [(12, 17), (204, 3), (3, 12, 17), (12, 17, 4), (1, 12, 17, 3), (0, 17, 3)])
def test_wrong_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    message = refusal(read_xyz, save(tmp_path, xyz=np.ones(shape, np.float32)))
    assert f"xyz of float32 {list(shape)}" in message and "float32 [h, w, 3]" in message


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float16, np.complex64, bool, "S4"])
def test_wrong_dtype(tmp_path: Path, dtype: Any) -> None:
    assert f"xyz of {np.dtype(dtype)} [12, 17, 3]" in refusal(read_xyz, save(tmp_path, xyz=POINTS.astype(dtype)))


def test_pickle_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, xyz=np.full((12, 17, 3), None, dtype=object))
    monkeypatch.setattr("pickle.load", lambda *a, **k: pytest.fail("unpickled"))
    assert "xyz of object" in refusal(read_xyz, path)


def test_missing_arrays(tmp_path: Path) -> None:
    assert "found arrays points, colours." in refusal(read_xyz, save(tmp_path, points=POINTS, colours=POINTS))
    assert "found arrays depth." in refusal(read_xyz, save(tmp_path, depth=depth_of()))
    assert "not an NPZ" in refusal(read_xyz, save_members(tmp_path, {}))  # only a zip's end


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"depth_scale": None}, "no depth_scale"),
        ({"depth_scale": 0.0}, "above 0"),
        ({"depth_scale": np.ones(1)}, "depth_scale of float64 [1]"),
        ({"intrinsics": K.reshape(2, 2)}, "intrinsics of float64 [2, 2]"),
        ({"intrinsics": [0.0, 1, 2, 3]}, "above 0"),
        ({"intrinsics": [1.0, 1, np.nan, 3]}, "finite"),
        ({"depth": np.ones((4, 5), np.uint8)}, "depth of uint8"),
        ({"depth": np.full((4, 5), -0.5, np.float32)}, "a negative depth"),
        ({"depth_scale": 1}, "add depth_scale = 0.001"),
    ],
)
def test_wrong_depth(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    merged = {"depth": depth_of(), "intrinsics": K, "depth_scale": 0.001, **arrays}
    path = save(tmp_path, **{name: value for name, value in merged.items() if value is not None})
    assert words in refusal(read_xyz, path)


def test_millimetres(tmp_path: Path) -> None:
    assert "divide them by 1000" in refusal(read_xyz, save(tmp_path, xyz=POINTS * 1000))


def test_not_an_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", POINTS)
    message = refusal(read_xyz, (tmp_path / "a.npy").rename(tmp_path / "a.npz"))
    assert "not an NPZ archive" in message and "numpy.savez" in message


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_truncated_anywhere(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "a.npz"
    write(path, xyz=POINTS)
    whole = path.read_bytes()
    for length in (5, 30, 60, 200, len(whole) // 2, len(whole) - 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "damaged or incomplete" in refusal(read_xyz, path)


def test_flipped_byte_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = save(tmp_path, xyz=POINTS)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "CRC" in refusal(read_xyz, path)


@pytest.mark.parametrize("change", [-1, 1])
def test_array_shorter_or_longer_than_its_header_says(tmp_path: Path, change: int) -> None:
    data = npy(POINTS)
    path = save_members(tmp_path, {"xyz.npy": data[:-1] if change < 0 else data + b"x"})
    assert "differs from the header" in refusal(read_xyz, path)


def test_compression_that_numpy_does_not_write(tmp_path: Path) -> None:
    path = save_members(tmp_path, {"xyz.npy": npy(POINTS)}, zipfile.ZIP_LZMA)
    assert "does not write" in refusal(read_xyz, path)


def test_hostile_shape_is_refused_before_it_is_decompressed(tmp_path: Path) -> None:
    header = npy(np.zeros((1, 1, 3), np.float32))[:128]
    for shape in ("(20000, 20000, 3)", "(1000000000, 1, 3)", "(99999999999999999999, 9999999999, 3)"):
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
        path = save_members(tmp_path, {"xyz.npy": header[:10] + text.ljust(117) + b"\n" + bytes(99)})
        assert "at most 16.8 million" in refusal(read_xyz, path)


def test_bomb_stops_where_its_header_ends(tmp_path: Path) -> None:
    data = npy(POINTS) + bytes(50_000_000)
    path = save_members(tmp_path, {"xyz.npy": data}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    assert "differs from the header" in refusal(read_xyz, path)


def test_limit_is_the_common_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_POINTS", 203)
    assert "17×12 points" in refusal(read_xyz, save(tmp_path, xyz=POINTS))
