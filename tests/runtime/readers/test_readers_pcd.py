"""PCD: all three kinds of data come back exactly; what is no organised cloud is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_files import POINTS, XYZ, lzf, pcd, refusal
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.readers.pcd import decompress_lzf
from cmdiad_runtime.support import sizes

DATA = ("ascii", "binary", "binary_compressed")
MIXED = (
    ("normal", "f4", (3,)),
    ("z", "f8"),
    ("_", "u1", (4,)),
    ("x", "f4"),
    ("rgb", "u4"),
    ("y", "f4"),
    ("label", "i2"),
)
ROUND = np.round(POINTS, 1)


def save(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "cloud.pcd"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("fields", [XYZ, MIXED])
@pytest.mark.parametrize("points", [POINTS, ROUND], ids=["noise", "compressible"])
def test_cloud_comes_back_exactly(tmp_path: Path, data: str, fields: Any, points: np.ndarray) -> None:
    found = read_xyz(save(tmp_path, pcd(points, data=data, fields=fields)))
    np.testing.assert_array_equal(found, points)
    assert found.dtype == np.float32 and found.flags.writeable and found.flags.c_contiguous


def test_header_without_what_may_be_left_out(tmp_path: Path) -> None:
    path = save(tmp_path, pcd(POINTS, VERSION=None, COUNT=None, VIEWPOINT=None))
    np.testing.assert_array_equal(read_xyz(path), POINTS)
    path.write_bytes(b"\r\n".join(pcd(POINTS).split(b"\n", 11)))
    np.testing.assert_array_equal(read_xyz(path), POINTS)


def test_padding_behind_the_points_is_left_alone(tmp_path: Path) -> None:
    """The Point Cloud Library fills the last page of a compressed file."""
    for data in DATA[1:]:
        np.testing.assert_array_equal(read_xyz(save(tmp_path, pcd(POINTS, data=data) + bytes(999))), POINTS)


@pytest.mark.parametrize("data", DATA)
def test_missing_points_become_zeros(tmp_path: Path, data: str) -> None:
    gaps = POINTS.copy()
    gaps[0, 0] = np.nan
    gaps[2, 3, 1] = -np.inf
    points = read_xyz(save(tmp_path, pcd(gaps, data=data)))
    holes = (points == 0).all(axis=-1)
    assert np.argwhere(holes).tolist() == [[0, 0], [2, 3]]
    np.testing.assert_array_equal(points[~holes], POINTS[~holes])


# Compression


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (b"\x02abc", b"abc"),
        (b"\x00a\x00b", b"ab"),
        (b"\x00a\x20\x00", b"aaaa"),  # 3 bytes from 1 before: overlaps itself
        (b"\x01ab\x60\x01", b"ababab" + b"a"),  # 5 from 2 before
        (b"\x00a\xe0\x03\x00", b"a" * 13),  # long: 9 + 3 from 1 before
        (b"\x1f" + bytes(range(32)) + b"\x20\x1f", bytes(range(32)) + b"\x00\x01\x02"),
    ],
)
def test_lzf_by_hand(packed: bytes, plain: bytes) -> None:
    assert decompress_lzf(packed, len(plain)) == plain


@pytest.mark.parametrize("kinds", [1, 2, 3, 17, 256])
def test_lzf_undoes_what_was_compressed(kinds: int) -> None:
    rng = np.random.default_rng(kinds)
    for length in (1, 2, 31, 32, 33, 263, 264, 265, 266, 9000, 20_000):
        plain = rng.integers(0, kinds, length, dtype=np.uint8).tobytes()
        assert decompress_lzf(lzf(plain), length) == plain
    far = rng.integers(0, 256, 8192, dtype=np.uint8).tobytes()
    assert decompress_lzf(lzf(far + far), 16_384) == far + far


@pytest.mark.parametrize(
    ("packed", "size"),
    [
        (b"\x20\x00", 3),
        (b"\x00a\x20\x01", 4),
        (b"\x05abc", 6),
        (b"\x00a\x20", 4),
        (b"\x00a\xe0\x03", 13),
        (b"\x02abc", 2),
    ],
)
def test_lzf_that_is_damaged(packed: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="compressed data"):
        decompress_lzf(packed, size)


# What is refused


def test_unorganised(tmp_path: Path) -> None:
    message = refusal(read_xyz, save(tmp_path, pcd(POINTS.reshape(1, -1, 3))))
    assert "an unorganised cloud (HEIGHT 1, 204 points)" in message and "organised (ordered, structured)" in message
    assert "an unorganised cloud" in refusal(read_xyz, save(tmp_path, pcd(POINTS.reshape(-1, 1, 3))))


def test_grid_of_another_size_than_its_points(tmp_path: Path) -> None:
    assert "203 points for a grid of 17×12" in refusal(read_xyz, save(tmp_path, pcd(POINTS, POINTS=203)))


def test_wrong_fields(tmp_path: Path) -> None:
    whole = (("x", "i4"), ("y", "f4"), ("z", "f4"))
    assert "not single floats" in refusal(read_xyz, save(tmp_path, pcd(POINTS, fields=whole)))
    assert "not single floats" in refusal(read_xyz, save(tmp_path, pcd(POINTS, COUNT="1 1 2")))
    assert "fields x y depth" in refusal(read_xyz, save(tmp_path, pcd(POINTS, FIELDS="x y depth")))


def test_millimetres(tmp_path: Path) -> None:
    assert "divide them by 1000" in refusal(read_xyz, save(tmp_path, pcd(POINTS * 1000)))


def test_not_a_pcd(tmp_path: Path) -> None:
    for data in (b"ply\nformat ascii 1.0\n", b"\x89PNG\r\n\x1a\n" + bytes(99), b"x"):
        assert "a file that is not a PCD" in refusal(read_xyz, save(tmp_path, data))


@pytest.mark.parametrize(
    "lines",
    [
        {"WIDTH": None},
        {"POINTS": None},
        {"WIDTH": "-17"},
        {"WIDTH": "17 1"},
        {"WIDTH": "1_7"},
        {"SIZE": "4 4"},
        {"TYPE": "F F Q"},
        {"TYPE": "F F f4,"},
        {"FIELDS": "x y z w", "SIZE": "4 4 4 5", "TYPE": "F F F I", "COUNT": "1 1 1 1"},
        {"FIELDS": "x y z w"},
        {"COUNT": "1 1"},
        {"COUNT": "1 1 0"},
        {"DATA": "zipped"},
        {"DATA": ""},
        {"VIEWPOINT": "0\nWIDTH 17"},
        {"VIEWPOINT": "0\nPLACE 3"},
    ],
)
def test_damaged_header(tmp_path: Path, lines: dict[str, Any]) -> None:
    message = refusal(read_xyz, save(tmp_path, pcd(POINTS, **lines)))
    assert "damaged or incomplete" in message and len(message) < 400


@pytest.mark.parametrize("data", DATA)
def test_truncated_anywhere(tmp_path: Path, data: str) -> None:
    whole = pcd(ROUND, data=data)
    for length in (40, 120, whole.index(b"DATA") + 6, whole.index(b"DATA") + 26, len(whole) // 2, len(whole) - 30):
        assert "damaged or incomplete" in refusal(read_xyz, save(tmp_path, whole[:length]))


@pytest.mark.parametrize("new", [b"0.1 0.2", b"0.1 0.2 0.3 0.4", b"0.1 0.2 metres", b""])
def test_damaged_text_row(tmp_path: Path, new: bytes) -> None:
    lines = pcd(POINTS, data="ascii").split(b"\n")
    lines[30] = new
    assert "damaged or incomplete" in refusal(read_xyz, save(tmp_path, b"\n".join(lines)))


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("size", [4_000, 1_000_000, 999_999_999_999])
def test_hostile_sizes_allocate_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, size: int) -> None:
    path = save(tmp_path, pcd(POINTS, data=data, WIDTH=size, HEIGHT=size, POINTS=size * size))
    monkeypatch.setattr(np, "loadtxt", lambda *a, **k: pytest.fail("read"))
    message = refusal(read_xyz, path)
    assert any(
        word in message for word in ("bytes early", "cannot expand to", "at most 16.8 million", "should have a number")
    )


def test_hostile_field(tmp_path: Path) -> None:
    for count in (10**6, 10**9, 10**14):
        for data in DATA:
            path = save(
                tmp_path,
                pcd(POINTS, data=data, FIELDS="x y z w", SIZE="4 4 4 8", TYPE="F F F F", COUNT=f"1 1 1 {count}"),
            )
            assert "numbers per point" in refusal(read_xyz, path)


@pytest.mark.seconds
def test_compressed_bomb(tmp_path: Path) -> None:
    """A file whose bytes could become its points is read; one whose bytes could not is refused unread."""
    head = (
        pcd(np.zeros((500, 500, 3)), data="binary_compressed").split(b"binary_compressed\n")[0] + b"binary_compressed\n"
    )
    size = 500 * 500 * 12
    packed = lzf(bytes(size))
    assert not read_xyz(save(tmp_path, head + struct.pack("<II", len(packed), size) + packed)).any()
    path = save(tmp_path, head + struct.pack("<II", 9, size) + packed)
    assert "9 bytes that cannot expand to 3000000" in refusal(read_xyz, path)
    path = save(tmp_path, head + struct.pack("<II", len(packed), size + 1) + packed)
    assert "cannot expand to 3000001" in refusal(read_xyz, path)


def test_limit_is_the_common_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_POINTS", 203)
    assert "17×12 points" in refusal(read_xyz, save(tmp_path, pcd(POINTS)))
