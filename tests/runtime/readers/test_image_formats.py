"""Photos in BMP, TIFF, WebP and JPEG 2000: exact pixels, or one refusal; never a part of an image."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cloud_files import refusal
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import image_colour, limits, read_rgb
from cmdiad_runtime.readers.folders import loose_files
from cmdiad_runtime.readers.image import read_grey16
from cmdiad_runtime.readers.mask import read_mask

NOISE = np.random.default_rng(3).integers(0, 256, (60, 72, 3), dtype=np.uint8)
EXACT: dict[str, dict[str, Any]] = {
    "plain.bmp": {},
    "plain.tif": {},
    "lzw.tiff": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
    "packbits.tif": {"compression": "packbits"},
    "lossless.webp": {"lossless": True},
    "plain.jp2": {},
    "tiles.j2k": {"tile_size": (32, 32)},
}


def save(path: Path, pixels: Any = NOISE, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize("name", EXACT)
def test_pixels_come_back_exactly(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, **EXACT[name])
    assert image_colour(path) == "rgb"
    np.testing.assert_array_equal(read_rgb(path), NOISE)
    opaque = save(tmp_path / f"alpha-{name}", np.dstack([NOISE, np.full_like(NOISE[..., 0], 255)]), **EXACT[name])
    np.testing.assert_array_equal(read_rgb(opaque), NOISE)


@pytest.mark.parametrize("name", [name for name in EXACT if not name.endswith("webp")])
def test_grey_images(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, NOISE[..., 0], **EXACT[name])
    assert image_colour(path) == "grey"
    np.testing.assert_array_equal(read_rgb(path, colour="grey"), np.repeat(NOISE[..., :1], 3, axis=2))
    assert "a grey image" in refusal(read_rgb, path)


@pytest.mark.parametrize("name", ["a.bmp", "a.tif"])
def test_palettes(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(NOISE).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / name)
    np.testing.assert_array_equal(read_rgb(tmp_path / name), np.asarray(image.convert("RGB")))


def test_a_float_image_is_a_cloud_and_one_of_8_bits_a_photo(tmp_path: Path) -> None:
    photo, cloud, damaged = (tmp_path / f"{name}.tif" for name in ("photo", "cloud", "damaged"))
    tifffile.imwrite(photo, NOISE, photometric="rgb")
    tifffile.imwrite(cloud, NOISE.astype(np.float32), photometric="rgb")
    damaged.write_bytes(photo.read_bytes()[:20])
    assert loose_files([photo, cloud, damaged], "rgb") == [photo, damaged]  # a damaged file is never passed over
    assert loose_files([photo, cloud, damaged], "xyz") == [cloud, damaged]
    assert "32 bits per channel" in refusal(read_rgb, cloud)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "jpeg.tif": ({"compression": "jpeg"}, "compressed in another way"),
    "film.webp": ({"save_all": True, "append_images": [Image.fromarray(255 - NOISE)]}, "several images in one file"),
    "pages.tif": ({"save_all": True, "append_images": [Image.fromarray(255 - NOISE)]}, "several images in one file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    options, problem = REFUSED[name]
    assert problem in refusal(read_rgb, save(tmp_path / name, **options))


@pytest.mark.parametrize("order", ["<", ">"])
def test_bigtiff(tmp_path: Path, order: str) -> None:
    for name, pixels, read in (
        ("8.tif", NOISE, read_rgb),
        ("16.tif", NOISE[..., 0].astype(np.uint16) * 200, read_grey16),
        ("mask.tif", np.pad(np.full((9, 9), 255, np.uint8), 30), lambda path: read_mask(path) * 255),
    ):
        path = tmp_path / name
        compression = "zlib" if name == "mask.tif" else None  # An uncompressed mask is read without Pillow.
        tifffile.imwrite(path, pixels, bigtiff=True, byteorder=order, compression=compression)
        if order == ">":
            assert "BigTIFF file in big-endian order, which Pillow cannot read" in refusal(read, path)
        else:
            np.testing.assert_array_equal(read(path), pixels)


@pytest.mark.parametrize("name", ["a.tif", "a.jp2", "a.j2k"])
def test_sixteen_bits(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, NOISE[..., 0].astype(np.uint16) * 200)
    assert "16 bits per channel" in refusal(read_rgb, path, colour="grey")
    assert "8 bits per channel" in refusal(image_colour, path)


def test_sixteen_bit_colours_that_pillow_would_shorten(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", NOISE.astype(np.uint16) * 200, photometric="rgb")
    assert "16 bits per channel" in refusal(read_rgb, tmp_path / "a.tif")
    bmp = save(tmp_path / "a.bmp")
    patch(bmp, 28, struct.pack("<H", 16))
    assert "16 bits per pixel" in refusal(read_rgb, bmp)


@pytest.mark.parametrize("name", ["a.bmp", "a.tif"])
def test_one_bit_and_other_colours(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, NOISE[..., 0], "1")
    assert "the colour model 1" in refusal(read_rgb, path) or "1 bit " in refusal(read_rgb, path)
    assert "CMYK" in refusal(read_rgb, save(tmp_path / "c.tif", NOISE, "CMYK"))


@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.jp2"])
def test_transparency(tmp_path: Path, name: str) -> None:
    alpha = np.full_like(NOISE[..., 0], 255)
    alpha[5, 5] = 0
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, np.dstack([NOISE, alpha]), **options)
    assert "transparent pixels (alpha 0)" in refusal(read_rgb, path)


@pytest.mark.parametrize("name", [*EXACT, "lossy.webp"])
def test_a_cut_file_is_never_a_part_of_an_image(tmp_path: Path, name: str) -> None:
    whole = save(tmp_path / name, **EXACT.get(name, {})).read_bytes()
    cut = tmp_path / f"cut-{name}"
    for length in {*range(1, 300, 9), *range(0, len(whole), 997), *range(len(whole) - 30, len(whole))}:
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_rgb(cut)


def patch(path: Path, place: int, content: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[place : place + len(content)] = content
    path.write_bytes(data)
    return path


def tag(data: bytes, number: int) -> int:
    """Place of the entry of a tag in the first directory of a little-endian TIFF file."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [start + 2 + 12 * i for i in range(count)]
    return next(place for place in entries if struct.unpack_from("<H", data, place)[0] == number)


def test_missing_strips_are_not_black(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, NOISE, photometric="rgb", rowsperstrip=10)
    np.testing.assert_array_equal(read_rgb(path), NOISE)
    patch(path, tag(path.read_bytes(), 273) + 4, struct.pack("<I", 5))
    assert "5 strips or tiles, but an image with 6" in refusal(read_rgb, path)


def test_missing_tiles_are_not_black(tmp_path: Path) -> None:
    path = save(tmp_path / "a.j2k", tile_size=(32, 32))
    data = path.read_bytes()
    start = data.index(b"\xff\x90")
    (length,) = struct.unpack_from(">I", data, start + 6)
    path.write_bytes(data[:start] + data[start + length :])
    assert "5 of 6 tiles" in refusal(read_rgb, path)


BOMBS = ("a.bmp", "a.tif", "a.webp", "a.jp2", "layers.j2k")


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = save(tmp_path / name, np.dstack([NOISE, NOISE[..., 0]]) if name == "a.webp" else NOISE)
    data = path.read_bytes()
    if name == "a.bmp":
        patch(path, 18, struct.pack("<ii", 60_000, 60_000))
    elif name == "a.tif":
        for number in (256, 257):
            patch(path, tag(data, number) + 2, struct.pack("<HII", 4, 1, 60_000))
    elif name == "a.webp":
        assert data[12:16] == b"VP8X"
        patch(path, 24, b"\xff\x3f\x00\xff\x3f\x00")
    elif name == "a.jp2":
        patch(path, data.index(b"ihdr") + 4, struct.pack(">II", 60_000, 60_000))
        patch(path, data.index(b"\xff\x51") + 6, struct.pack(">II", 60_000, 60_000))
        patch(path, data.index(b"\xff\x51") + 22, struct.pack(">II", 60_000, 60_000))
    else:
        patch(path, data.index(b"\xff\x52") + 6, struct.pack(">H", limits.MAX_JPEG2000_LAYERS + 1))
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("memory was allocated"))
    with pytest.raises(InputError) as refused:
        read_rgb(path)
    assert refused.value.reason == "too-large"


def test_size_of_images_whose_decoders_keep_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BUFFERED_PIXELS", NOISE.shape[0] * NOISE.shape[1] - 1)
    for name in ("a.webp", "a.jp2"):
        assert "pixels in a WebP or JPEG 2000 image" in refusal(read_rgb, save(tmp_path / name))
    assert read_rgb(save(tmp_path / "a.bmp")).any()


def test_run_length_of_bmp(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.bmp", NOISE[..., 0]), 30, struct.pack("<I", 1))
    assert "a compressed BMP image" in refusal(read_rgb, path)


def test_damage_anywhere_ends_in_a_refusal_or_a_whole_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, options in EXACT.items():
        whole = save(tmp_path / name, **options).read_bytes()
        damaged = tmp_path / f"damaged-{name}"
        for place in [*range(0, 200, 7), *rng.integers(0, len(whole), 20).tolist()]:
            data = bytearray(whole)
            data[place] ^= int(rng.choice([1, 0x10, 0x80, 0xFF]))
            damaged.write_bytes(data)
            try:
                pixels = read_rgb(damaged)
            except InputError as error:
                assert str(error).startswith(f"{damaged}: found ")
            else:
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
