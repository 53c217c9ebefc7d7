"""JPEG files: all pixels are in the file, or the file is refused. The decoder would guess the rest without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cloud_files import refusal
from cmdiad_runtime.readers import limits, read_rgb
from cmdiad_runtime.readers.mask import read_mask

ROW, COLUMN = np.mgrid[:96, :136]
PHOTO = np.stack([ROW * 2, COLUMN, (ROW * COLUMN) % 251], axis=2).astype(np.uint8)
"""A ramp with detail; neither side is a multiple of a block of 16 pixels."""
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True},
    "best": {"quality": 100, "subsampling": 0},
    "progressive": {"progressive": True},
    "progressive best": {"progressive": True, "quality": 95, "subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "many restarts": {"restart_marker_blocks": 2, "progressive": True},
}


def saved(path: Path, pixels: Any = PHOTO, **options: Any) -> bytes:
    Image.fromarray(pixels).save(path, format="JPEG", **options)
    return path.read_bytes()


def first_pixels(data: bytes) -> int:
    return data.index(b"\xff\xda") + 14


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pixels", [PHOTO, PHOTO[..., 0], PHOTO[:1, :1], np.full((40, 50, 3), 99, np.uint8)])
def test_whole_files_are_read_as_pillow_decodes_them(tmp_path: Path, kind: str, pixels: Any) -> None:
    path = tmp_path / "a.jpg"
    saved(path, pixels, **KINDS[kind])
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_rgb(path, colour="rgb" if pixels.ndim == 3 else "grey"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_files_that_were_closed_again_are_refused(tmp_path: Path, kind: str) -> None:
    """A progressive file that was cut at 12 to 95 % was OK."""
    path = tmp_path / "a.jpg"
    data = saved(path, **KINDS[kind])
    for share in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
        path.write_bytes(data[: max(first_pixels(data), int(len(data) * share))] + b"\xff\xd9")
        assert "a damaged or incomplete file" in refusal(read_rgb, path)


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts"])
@pytest.mark.parametrize(
    "damage",
    [lambda data, at: data[:at] + data[at + 600 :], lambda data, at: data[:at] + bytes(800) + data[at + 800 :]],
    ids=["deleted", "zeroed"],
)
def test_gaps_in_the_data_are_refused(tmp_path: Path, kind: str, damage: Callable[[bytes, int], bytes]) -> None:
    path = tmp_path / "a.jpg"
    data = saved(path, **KINDS[kind])
    for share in (0.1, 0.3, 0.5):
        at = first_pixels(data) + int(share * (len(data) - first_pixels(data)))
        path.write_bytes(damage(data, at))
        assert "a damaged or incomplete file" in refusal(read_rgb, path)


def test_each_missing_scan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    data = saved(path, progressive=True)
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 5
    for start in starts:
        end = data.index(b"\xff", start + 2)
        while data[end + 1] == 0:
            end = data.index(b"\xff", end + 1)
        path.write_bytes(data[:start] + data[end:])
        assert "scan" in refusal(read_rgb, path)


def test_missing_restart_marker_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    data = saved(path, restart_marker_rows=1)
    path.write_bytes(data.replace(b"\xff\xd2", b"", 1))
    assert "a missing restart marker" in refusal(read_rgb, path)
    path.write_bytes(saved(path).replace(b"\xff\xd9", b"\xff\xd0\xff\xd9"))
    assert "1 restart markers in a scan that needs 0" in refusal(read_rgb, path)


@pytest.mark.parametrize("padding", [b"\xff" * 9, b"\0" * 3, b"\0" * 500, b"\x12\x34\x56\x78"])
def test_padding_of_cameras_is_no_damage(tmp_path: Path, padding: bytes) -> None:
    path = tmp_path / "a.jpg"
    data = saved(path)
    expected = read_rgb(path)
    path.write_bytes(data[:-2] + padding + data[-2:] + b"preview")
    np.testing.assert_array_equal(read_rgb(path), expected)


def test_mask_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    mask = np.zeros((64, 64), np.uint8)
    mask[20:30, 20:30] = 255
    data = saved(path, mask, progressive=True)
    assert read_mask(path).any()
    path.write_bytes(data[: data.rindex(b"\xff\xda")] + b"\xff\xd9")
    assert "scans are missing" in refusal(read_mask, path)


def test_arithmetic_coding_and_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    data = saved(path)
    path.write_bytes(data.replace(b"\xff\xc0", b"\xff\xc9", 1))
    assert "arithmetic-coded" in refusal(read_rgb, path)
    path.write_bytes(data)
    monkeypatch.setattr(limits, "MAX_JPEG_BYTES", 1000)
    assert "bytes in a JPEG image" in refusal(read_rgb, path)
