"""Orientations of images: the pixels of every viewer, from the definition of the eight values, or one refusal."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cloud_files import refusal
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import read_rgb
from cmdiad_runtime.readers.image import image_orientation, read_grey16
from cmdiad_runtime.readers.mask import read_mask
from cmdiad_runtime.readers.reading import read_files
from helpers import write_cloud

NOISE = np.random.default_rng(5).integers(0, 256, (12, 20, 3), dtype=np.uint8)
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""Side of the upright image that is the first row, and the first column, of the stored pixels (EXIF 2.3, tag 274)."""
WRITERS: dict[str, Callable[[Path, Any, int], Any]] = {
    "a.png": lambda path, pixels, value: Image.fromarray(pixels).save(path, exif=exif(value)),
    "a.webp": lambda path, pixels, value: Image.fromarray(pixels).save(path, exif=exif(value), lossless=True),
    "raw.tif": lambda path, pixels, value: Image.fromarray(pixels).save(path, exif=exif(value)),
    "lzw.tif": lambda path, pixels, value: Image.fromarray(pixels).save(path, exif=exif(value), compression="tiff_lzw"),
    "tiles.tif": lambda path, pixels, value: tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(16, 16), extratags=[(274, 3, 1, value, True)]
    ),
    "big.tif": lambda path, pixels, value: tifffile.imwrite(
        path, pixels, photometric="rgb", bigtiff=True, extratags=[(274, 3, 1, value, True)]
    ),
}


def exif(orientation: int) -> Image.Exif:
    fields = Image.Exif()
    fields[0x0112] = orientation
    return fields


def as_shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Place each stored pixel where the definition of the orientation says, one by one."""
    rows, columns = SIDES[orientation]
    height, width = stored.shape[:2]
    across = rows in ("left", "right")
    shown = np.zeros((*((width, height) if across else (height, width)), *stored.shape[2:]), stored.dtype)
    for row in range(height):
        for column in range(width):
            place = {
                rows: row if rows in ("top", "left") else height - 1 - row,
                columns: column if columns in ("top", "left") else width - 1 - column,
            }
            y = place.get("top", place.get("bottom", 0))
            x = place.get("left", place.get("right", 0))
            shown[y, x] = stored[row, column]
    return shown


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("name", WRITERS)
def test_pixels_stand_upright(tmp_path: Path, name: str, orientation: int) -> None:
    WRITERS[name](tmp_path / name, NOISE, orientation)
    np.testing.assert_array_equal(read_rgb(tmp_path / name), as_shown(NOISE, orientation))
    assert image_orientation(tmp_path / name) == orientation
    if orientation == 1:
        np.testing.assert_array_equal(read_rgb(tmp_path / name, registered=True), NOISE)
    else:
        message = refusal(read_rgb, tmp_path / name, registered=True)
        assert f"an EXIF orientation of {orientation}" in message and "automatic rotation" in message


@pytest.mark.parametrize("orientation", SIDES)
def test_jpeg(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path, quality=95)
    stored = read_rgb(path)
    Image.fromarray(NOISE).save(path, quality=95, exif=exif(orientation))
    np.testing.assert_array_equal(read_rgb(path), as_shown(stored, orientation))


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_of_sixteen_bits(tmp_path: Path, name: str, orientation: int) -> None:
    grey = NOISE[..., 0].astype(np.uint16) * 250
    Image.fromarray(grey).save(tmp_path / name, exif=exif(orientation))
    np.testing.assert_array_equal(read_grey16(tmp_path / name), as_shown(grey, orientation))
    assert (orientation == 1) or "an EXIF orientation" in refusal(read_grey16, tmp_path / name, registered=True)


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "float.tif", "one bit.tif"])
def test_masks(tmp_path: Path, name: str, orientation: int) -> None:
    mask = np.zeros((12, 20), bool)
    mask[2:5, 3:11] = mask[8, 2] = True
    if name == "float.tif":
        tifffile.imwrite(tmp_path / name, mask.astype(np.float32), extratags=[(274, 3, 1, orientation, True)])
    else:
        values = mask if name == "one bit.tif" else mask.astype(np.uint8) * 255
        Image.fromarray(values).save(tmp_path / name, exif=exif(orientation))
    np.testing.assert_array_equal(read_mask(tmp_path / name), as_shown(mask, orientation))


def test_palettes_keep_their_colours_and_their_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(NOISE).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "a.png", exif=exif(6))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), as_shown(np.asarray(image.convert("RGB")), 6))
    image.save(tmp_path / "b.png", exif=exif(6), transparency=bytes(256))
    assert "alpha 0" in refusal(read_rgb, tmp_path / "b.png")


@pytest.mark.parametrize("value", [0, 9, 255, 65_535])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_values_without_a_meaning(tmp_path: Path, name: str, value: int) -> None:
    Image.fromarray(NOISE).save(tmp_path / name)
    stored = read_rgb(tmp_path / name)
    Image.fromarray(NOISE).save(tmp_path / name, exif=exif(value))
    np.testing.assert_array_equal(read_rgb(tmp_path / name, registered=True), stored)


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def test_xmp_alone_is_ambiguous_and_exif_has_priority(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    image = Image.fromarray(NOISE)
    image.save(path, lossless=True, xmp=xmp(6))
    assert "an orientation of 6 in XMP" in refusal(read_rgb, path)
    image.save(path, lossless=True, xmp=xmp(1))
    np.testing.assert_array_equal(read_rgb(path), NOISE)
    image.save(path, lossless=True, xmp=xmp(6), exif=exif(1))
    np.testing.assert_array_equal(read_rgb(path), NOISE)
    image.save(path, lossless=True, xmp=xmp(6), exif=exif(3))
    np.testing.assert_array_equal(read_rgb(path), as_shown(NOISE, 3))
    packet = xmp(6)
    tifffile.imwrite(tmp_path / "a.tif", NOISE, photometric="rgb", extratags=[(700, 1, len(packet), packet, True)])
    assert "an orientation of 6 in XMP" in refusal(read_rgb, tmp_path / "a.tif")


def test_xmp_of_a_jpeg_with_other_exif_data_is_ambiguous(tmp_path: Path) -> None:
    path, fields = tmp_path / "a.jpg", Image.Exif()
    fields[0x010F] = "camera"
    Image.fromarray(NOISE).save(path, exif=fields, xmp=xmp(6))
    assert "an orientation of 6 in XMP" in refusal(read_rgb, path)
    fields[0x0112] = 3
    Image.fromarray(NOISE).save(path, exif=fields, xmp=xmp(6), quality=100)
    stored = np.asarray(Image.open(path))
    np.testing.assert_array_equal(read_rgb(path), as_shown(stored, 3))


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    block = b"eXIf" + exif(8).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] + chunk + whole[-12:])
    np.testing.assert_array_equal(read_rgb(path), as_shown(NOISE, 8))
    assert "an EXIF orientation of 8" in refusal(read_rgb, path, registered=True)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_damaged_exif_is_refused_or_one_of_the_eight(tmp_path: Path, name: str) -> None:
    fields = exif(6)
    fields[0x010F] = "camera"
    whole = fields.tobytes().removeprefix(b"Exif\0\0")
    image, path = Image.fromarray(NOISE), tmp_path / name
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    image.save(path, **options)
    stored = read_rgb(path)
    shown = [as_shown(stored, orientation) for orientation in SIDES]
    cut = [whole[:length] for length in range(1, len(whole))]
    flipped = [
        whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :] for place in range(40) for bit in (1, 128)
    ]
    read = refused = 0
    for block in [*cut, *flipped]:
        image.save(path, exif=b"Exif\0\0" + block, **options)
        try:
            pixels = read_rgb(path)
        except InputError as error:
            assert "damaged EXIF data" in str(error) or "damaged or incomplete" in str(error)
            refused += 1
        else:
            assert any(np.array_equal(pixels, upright) for upright in shown)
            read += 1
    assert read > 40
    assert refused > 0 or name == "a.jpg"


def test_samples_with_a_cloud(tmp_path: Path) -> None:
    image, cloud = tmp_path / "a.png", tmp_path / "a.tiff"
    Image.fromarray(NOISE).save(image, exif=exif(3))
    write_cloud(cloud, np.ones((12, 20, 3), np.float32))
    alone = read_files("a", image, None).rgb
    assert alone is not None
    np.testing.assert_array_equal(alone, NOISE[::-1, ::-1])
    with pytest.raises(InputError, match="an EXIF orientation of 3 in an image that belongs to another file"):
        read_files("a", image, cloud)
