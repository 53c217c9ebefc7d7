"""Masks of any usual kind mean the same pixels, and what may mean two things is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cloud_files import refusal
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers.mask import read_mask
from cmdiad_runtime.support import sizes

SHAPE = (48, 64)
DEFECT = np.zeros(SHAPE, dtype=bool)
DEFECT[8:24, 16:40] = True
LARGE = np.zeros(SHAPE, dtype=bool)
LARGE[2:-2, 2:-2] = True
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "red": (255, 0, 0), "dark blue": (0, 0, 130)}


def painted(defect: str, background: str, mask: np.ndarray = DEFECT) -> np.ndarray:
    return np.where(mask[..., None], np.uint8(COLOURS[defect]), np.uint8(COLOURS[background]))


def save(path: Path, array: Any, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(np.asarray(array))
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def palette(path: Path, entries: list[int]) -> Path:
    image = Image.new("P", SHAPE[::-1])
    image.putdata(DEFECT.astype(np.uint8).ravel().tolist())
    image.putpalette(entries + [0] * (768 - len(entries)))
    image.save(path)
    return path


def transparent(colour: tuple[int, int, int], behind: tuple[int, int, int]) -> np.ndarray:
    colours = np.where(DEFECT[..., None], np.uint8(colour), np.uint8(behind))
    return np.dstack([colours, DEFECT.astype(np.uint8) * np.uint8(255)])


KINDS: dict[str, Callable[[Path], Any]] = {
    "0 and 255.png": lambda p: save(p, DEFECT.astype(np.uint8) * 255),
    "0 and 1.png": lambda p: save(p, DEFECT.astype(np.uint8)),
    "0 and 100.png": lambda p: save(p, DEFECT.astype(np.uint8) * 100),
    "one bit.png": lambda p: save(p, DEFECT),
    "16 bits.png": lambda p: save(p, DEFECT.astype(np.uint16) * 65_535),
    "16 bits, 0 and 1.png": lambda p: save(p, DEFECT.astype(np.uint16)),
    "16 bits, 0 and 255.png": lambda p: save(p, DEFECT.astype(np.uint16) * 255),
    "labels.png": lambda p: save(p, np.where(DEFECT, np.indices(SHAPE)[1] // 8, 0).astype(np.uint8)),
    "white.bmp": lambda p: save(p, DEFECT.astype(np.uint8) * 255),
    "one bit.bmp": lambda p: save(p, DEFECT),
    "float to 1.tif": lambda p: tifffile.imwrite(p, DEFECT.astype(np.float32)),
    "float to 255.tif": lambda p: tifffile.imwrite(p, DEFECT.astype(np.float32) * 255),
    "double.tif": lambda p: tifffile.imwrite(p, DEFECT.astype(np.float64)),
    "deflated float.tif": lambda p: tifffile.imwrite(p, DEFECT.astype(np.float32), compression="zlib"),
    "16 bits.tif": lambda p: tifffile.imwrite(p, DEFECT.astype(np.uint16) * 65_535),
    "lzw.tif": lambda p: save(p, DEFECT.astype(np.uint8) * 255, compression="tiff_lzw"),
    "one bit.tif": lambda p: save(p, DEFECT, compression="group4"),
    "red.tif": lambda p: tifffile.imwrite(p, painted("red", "black"), photometric="rgb"),
    "palette.png": lambda p: palette(p, [0, 0, 0, 255, 255, 255]),
    "palette with red.png": lambda p: palette(p, [0, 0, 0, 128, 0, 0]),
    "palette with labels.png": lambda p: palette(p, [0, 0, 0, 1, 1, 1]),
    "inverted palette.png": lambda p: palette(p, [255, 255, 255, 0, 0, 0]),
    "white.png": lambda p: save(p, painted("white", "black")),
    "red.png": lambda p: save(p, painted("red", "black")),
    "dark blue.png": lambda p: save(p, painted("dark blue", "black")),
    "red on white.png": lambda p: save(p, painted("red", "white")),
    "opaque.png": lambda p: save(p, painted("white", "black"), "RGBA"),
    "alpha, black.png": lambda p: save(p, transparent((0, 0, 0), (0, 0, 0))),
    "alpha, white.png": lambda p: save(p, transparent((255, 255, 255), (0, 0, 0))),
    "alpha, red on white.png": lambda p: save(p, transparent((255, 0, 0), (255, 255, 255))),
    "grey with alpha.png": lambda p: save(p, transparent((255, 255, 255), (0, 0, 0)), "LA"),
    "inverted.png": lambda p: save(p, (~DEFECT).astype(np.uint8) * 255),
    "inverted, 0 and 1.png": lambda p: save(p, (~DEFECT).astype(np.uint8)),
    "inverted.bmp": lambda p: save(p, (~DEFECT).astype(np.uint8) * 255),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / kind)
    mask = read_mask(tmp_path / kind)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, DEFECT)


@pytest.mark.parametrize("quality", [30, 60, 95])
@pytest.mark.parametrize("inverted", [False, True])
def test_noise_of_jpeg(tmp_path: Path, quality: int, inverted: bool) -> None:
    """The rectangle lies on whole blocks of 8 pixels, but noise appears around its edges."""
    mask = ~DEFECT if inverted else DEFECT
    path = save(tmp_path / "a.jpg", mask.astype(np.uint8) * 255, quality=quality)
    np.testing.assert_array_equal(read_mask(path), DEFECT)
    coloured = save(tmp_path / "b.jpg", painted("red", "black"), quality=quality, subsampling=0)
    assert (read_mask(coloured) != DEFECT).mean() < 0.02


def test_soft_edges(tmp_path: Path) -> None:
    grey = DEFECT.astype(np.uint8) * 255
    grey[7, 16:40] = 100
    grey[8, 16:40] = 180
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", grey)), DEFECT)


def test_no_defect(tmp_path: Path) -> None:
    black = np.zeros(SHAPE, np.uint8)
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif"):
        assert not read_mask(save(tmp_path / name, black)).any()
    assert not read_mask(save(tmp_path / "b.png", np.zeros((*SHAPE, 4), np.uint8))).any()


def test_defect_larger_than_half_the_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", LARGE.astype(np.uint8) * 255)
    np.testing.assert_array_equal(read_mask(path), LARGE)


def test_level_of_a_data_set(tmp_path: Path) -> None:
    grey = np.zeros(SHAPE, np.uint8)
    grey[3], grey[5], grey[7] = 127, 128, 1
    path = save(tmp_path / "a.png", grey)
    np.testing.assert_array_equal(read_mask(path, level=127), grey > 127)
    np.testing.assert_array_equal(read_mask(path, level=0), grey > 0)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "all white.png": (lambda p: save(p, np.full(SHAPE, 255, np.uint8)), "one value everywhere"),
    "all grey.png": (lambda p: save(p, np.full(SHAPE, 90, np.uint8)), "one value everywhere"),
    "half.png": (lambda p: save(p, np.uint8(255) * (np.indices(SHAPE)[0] > 20)), "may be the defect"),
    "white frame.png": (lambda p: save(p, np.uint8(255) * ~LARGE), "may be the defect"),
    "ramp.png": (lambda p: save(p, np.linspace(0, 255, 48 * 64).reshape(SHAPE).astype(np.uint8)), "grey values"),
    "photo.png": (
        lambda p: save(p, np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)),
        "neither black nor white",
    ),
    "red on blue.png": (lambda p: save(p, painted("red", "dark blue")), "neither black nor white"),
    "labels.jpg": (lambda p: save(p, DEFECT.astype(np.uint8) * 20), "without white"),
    "negative.tif": (lambda p: tifffile.imwrite(p, DEFECT.astype(np.float32) - 1), "values from -1 to 0"),
    "nan.tif": (lambda p: tifffile.imwrite(p, np.where(DEFECT, np.float32(1), np.float32(np.nan))), "values from nan"),
    "huge.tif": (lambda p: tifffile.imwrite(p, DEFECT.astype(np.float32) * 1e9), "values from 0 to 1e+09"),
    "pages.tif": (
        lambda p: tifffile.imwrite(p, np.zeros((3, *SHAPE), np.float32), photometric="minisblack"),
        "3 images in one file",
    ),
    "contradiction.png": (
        lambda p: save(
            p, np.dstack([painted("white", "black", DEFECT.T[:48, :48].repeat(2, 1)[:, :64]), np.uint8(255) * DEFECT])
        ),
        "transparency and different brightness",
    ),
    "gif.png": (lambda p: save(p, DEFECT.astype(np.uint8) * 255, format="GIF"), "neither PNG, JPEG"),
    "cmyk.jpg": (lambda p: save(p, painted("white", "black"), "CMYK"), "colour model CMYK"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_ambiguous_or_foreign(tmp_path: Path, kind: str) -> None:
    write, problem = REFUSED[kind]
    write(tmp_path / kind)
    assert problem in refusal(read_mask, tmp_path / kind)
    with pytest.raises(InputError) as caught:
        read_mask(tmp_path / kind)
    assert caught.value.reason == "unsupported"


def test_deep_colours_are_not_cut_to_8_bits(tmp_path: Path) -> None:
    """Pillow would return 0 everywhere: a mask without a defect."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in DEFECT)
    header = struct.pack(">IIBBBBB", SHAPE[1], SHAPE[0], 16, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert "16 bits per colour" in refusal(read_mask, path)


@pytest.mark.parametrize("kind", KINDS)
def test_damage(tmp_path: Path, kind: str) -> None:
    """Whatever the damage: an InputError, or a mask of some size."""
    KINDS[kind](tmp_path / kind)
    whole = (tmp_path / kind).read_bytes()
    rng = np.random.default_rng(len(kind))
    for _ in range(20):
        data = bytearray(whole[: int(rng.integers(len(whole) // 2, len(whole)))])
        data[int(rng.integers(len(data)))] ^= 255
        (tmp_path / kind).write_bytes(data)
        try:
            assert read_mask(tmp_path / kind).ndim == 2
        except InputError as error:
            assert str(error).startswith(str(tmp_path))


def test_limit_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_PIXELS", 100)
    for name in ("a.png", "a.tif", "a.jpg", "a.bmp"):
        with pytest.raises(InputError) as caught:
            read_mask(save(tmp_path / name, DEFECT.astype(np.uint8) * 255))
        assert caught.value.reason == "too-large"
