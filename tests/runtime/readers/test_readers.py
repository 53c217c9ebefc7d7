"""Readers: what comes back exactly, and every way an operator's file can be wrong."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cloud_files import refusal
from cmdiad_runtime import readers
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import image_colour, read_rgb, read_xyz
from cmdiad_runtime.support import sizes

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
POINTS = RNG.uniform(0.1, 0.6, (12, 17, 3)).astype(np.float32)


def save_image(path: Path, pixels: Any, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def save_tiff(path: Path, points: Any, **options: Any) -> Path:
    tifffile.imwrite(path, points, **{"photometric": "rgb", **options})
    return path


def test_door() -> None:
    colours = ["Colour", "PlainColour", "image_colour"]
    assert readers.__all__ == ["RGB_SUFFIXES", "XYZ_SUFFIXES", *colours, "read_rgb", "read_xyz"]
    assert readers.XYZ_SUFFIXES == (".tiff", ".tif", ".ply", ".pcd", ".npz", ".png")


# Images that are read


def test_png_comes_back_exactly(tmp_path: Path) -> None:
    pixels = read_rgb(save_image(tmp_path / "a.png", PIXELS))
    np.testing.assert_array_equal(pixels, PIXELS)
    assert pixels.dtype == np.uint8 and pixels.flags.writeable and pixels.flags.c_contiguous


def test_jpeg_is_read_as_pillow_decodes_it_whatever_its_name(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.jpg", PIXELS)
    with Image.open(path) as image:
        expected = np.asarray(image)
    renamed = path.rename(tmp_path / "camera_1.bin")
    np.testing.assert_array_equal(read_rgb(str(renamed)), expected)


def test_grey_is_replicated(tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        path = save_image(tmp_path / f"a.{suffix}", np.full((4, 5), 90, np.uint8))
        assert image_colour(path) == "grey"
        np.testing.assert_array_equal(read_rgb(path, colour="grey"), np.full((4, 5, 3), 90))


def test_opaque_alpha_is_dropped(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", PIXELS, "RGBA")
    np.testing.assert_array_equal(read_rgb(path), PIXELS)
    grey = save_image(tmp_path / "la.png", PIXELS[..., 0], "LA")
    np.testing.assert_array_equal(read_rgb(grey, colour="grey")[..., 1], PIXELS[..., 0])


def test_palette_is_looked_up(tmp_path: Path) -> None:
    few = PIXELS // 128 * 200
    path = save_image(tmp_path / "a.png", few, "P", colors=8)
    with Image.open(path) as image:
        assert image.mode == "P"
        expected = np.asarray(image.convert("RGB"))
    assert image_colour(path) == "rgb"
    np.testing.assert_array_equal(read_rgb(path), expected)


def test_palette_of_greys_is_grey(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS[..., 0]).convert("P")
    image.putpalette([value for value in range(256) for _ in range(3)])
    image.save(tmp_path / "a.png")
    assert image_colour(tmp_path / "a.png") == "grey"
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", colour="grey")[..., 2], PIXELS[..., 0])


def test_palette_with_opaque_transparency_table(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", PIXELS // 128 * 200, "P", transparency=b"\xff" * 4)
    assert read_rgb(path).shape == PIXELS.shape


def test_transparent_colour_that_no_pixel_has(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", np.full((4, 4, 3), 9, np.uint8), transparency=(1, 2, 3))
    np.testing.assert_array_equal(read_rgb(path), np.full((4, 4, 3), 9))


def test_orientation_one_is_fine_and_odd_exif_says_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    path = save_image(tmp_path / "a.jpg", PIXELS, exif=exif)
    assert read_rgb(path).shape == PIXELS.shape
    entry = struct.pack("<HHII", 0x011A, 5, 1, 9999)  # a resolution that lies beyond the end of its block
    odd = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    path = save_image(tmp_path / "b.jpg", PIXELS, exif=odd)
    with pytest.warns(UserWarning), Image.open(path) as image:
        image.getexif().get(0x011A)
    assert read_rgb(path).shape == PIXELS.shape


def test_colour_is_told_by_the_file_not_by_the_pixels(tmp_path: Path) -> None:
    assert image_colour(save_image(tmp_path / "a.png", np.full((4, 4, 3), 9, np.uint8))) == "rgb"


# Images that are refused


def test_grey_where_colour_is_expected(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", PIXELS[..., 0])
    message = refusal(read_rgb, path)
    assert "found a grey image. Expected a colour image" in message and "train" in message


def test_colour_where_grey_is_expected(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.jpg", PIXELS)
    assert "found a colour image. Expected a grey image" in refusal(read_rgb, path, colour="grey")


@pytest.mark.parametrize("read", [read_rgb, image_colour, read_xyz])
def test_missing_empty_and_folder(tmp_path: Path, read: Any) -> None:
    assert "no such file" in refusal(read, tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    assert "an empty file" in refusal(read, tmp_path / "empty.png")
    assert "a folder" in refusal(read, tmp_path)


@pytest.mark.parametrize("read", [read_rgb, read_xyz])
def test_unreadable_path(tmp_path: Path, read: Any) -> None:
    (tmp_path / "file").write_text("x")
    assert "no such file" in refusal(read, tmp_path / "file" / "a.png")


def test_no_image(tmp_path: Path) -> None:
    assert "no image of these formats" in refusal(read_rgb, save_image(tmp_path / "a.gif", PIXELS))
    (tmp_path / "a.png").write_text("hello")
    assert "Save the image as PNG or JPEG" in refusal(read_rgb, tmp_path / "a.png")


def sixteen_bit_rgb_png() -> bytes:
    """Pillow cannot write one: the header and data of a 1x1 image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 7)) + chunk(b"IEND", b"")


def test_sixteen_bits(tmp_path: Path) -> None:
    path = tmp_path / "rgb.png"
    path.write_bytes(sixteen_bit_rgb_png())
    with Image.open(path) as image:
        assert image.mode == "RGB"  # Pillow would say nothing
    assert "16 bits per channel" in refusal(read_rgb, path)
    grey = save_image(tmp_path / "grey.png", np.full((4, 4), 40_000, np.uint16))
    assert "8 bits" in refusal(read_rgb, grey, colour="grey")
    assert "16 bits per channel" in refusal(image_colour, grey)


def test_one_bit(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", PIXELS[..., 0], "1")
    assert "1 bit per channel" in refusal(read_rgb, path, colour="grey")


def test_transparency(tmp_path: Path) -> None:
    pixels = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    pixels[3, 4, 3] = 254
    message = refusal(read_rgb, save_image(tmp_path / "a.png", pixels))
    assert "transparent pixels (alpha 254)" in message and "without an alpha channel" in message
    keyed = save_image(tmp_path / "b.png", np.full((4, 4, 3), 9, np.uint8), transparency=(9, 9, 9))
    assert "alpha 0" in refusal(read_rgb, keyed)
    palette = save_image(tmp_path / "c.png", PIXELS // 128 * 200, "P", transparency=bytes(256))
    assert "alpha 0" in refusal(read_rgb, palette)


def test_cmyk(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.jpg", PIXELS, "CMYK")
    assert "the colour model CMYK" in refusal(read_rgb, path)


def test_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert "several images in one file" in refusal(read_rgb, tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_anywhere(tmp_path: Path, suffix: str) -> None:
    noise = RNG.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    whole = save_image(tmp_path / f"whole.{suffix}", noise).read_bytes()
    path = tmp_path / f"a.{suffix}"
    for length in (8, 20, 26, 40, len(whole) // 4, len(whole) // 2, len(whole) - 60):
        path.write_bytes(whole[:length])
        message = refusal(read_rgb, path)
        assert "damaged or incomplete" in message and "record the sample again" in message


def test_flipped_byte_in_png(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", PIXELS)
    damaged = bytearray(path.read_bytes())
    damaged[60] ^= 0xFF
    path.write_bytes(damaged)
    assert "damaged" in refusal(read_rgb, path)


@pytest.mark.parametrize(("read", "dtype"), [(read_rgb, np.uint8), (read_xyz, np.uint16)])
def test_damaged_length_in_a_png_allocates_nothing(tmp_path: Path, read: Any, dtype: Any) -> None:
    pixels = np.arange(900, dtype=dtype).reshape(30, 30)
    path = save_image(tmp_path / "a.png", np.dstack([pixels] * 3) if read is read_rgb else pixels)
    (tmp_path / "intrinsics.json").write_text('{"fx": 9, "fy": 9, "cx": 4.5, "cy": 4.5, "depth_scale": 0.001}')
    patch(path, path.read_bytes().index(b"IDAT") - 4, b"\x7f\xff\xff\xff")
    tracemalloc.start()
    with contextlib.suppress(InputError):  # Pillow reads an image whose pixels are all there
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000


@pytest.mark.seconds
def test_bomb_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    huge = Image.new("1", (20_000, 20_000)).convert("P")
    huge.save(path, bits=1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    message = refusal(read_rgb, path)
    assert "20000×20000 pixels" in message and "at most 100 million" in message


# Point clouds that are read


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib"}, {"rowsperstrip": 1}])
def test_cloud_comes_back_exactly(tmp_path: Path, options: dict[str, Any]) -> None:
    points = read_xyz(save_tiff(tmp_path / "a.tiff", POINTS, **options))
    np.testing.assert_array_equal(points, POINTS)
    assert points.dtype == np.float32 and points.flags.writeable and points.flags.c_contiguous


def test_cloud_layouts_that_tifffile_writes_without_being_asked(tmp_path: Path) -> None:
    path = save_tiff(tmp_path / "a.tiff", POINTS, photometric="minisblack")  # one page per row
    np.testing.assert_array_equal(read_xyz(path), POINTS)
    big_endian = save_tiff(tmp_path / "b.tiff", POINTS, byteorder=">")
    np.testing.assert_array_equal(read_xyz(big_endian), POINTS)


def test_float64_is_cast(tmp_path: Path) -> None:
    double = POINTS.astype(np.float64) + 1e-12
    double[0, 0] = (0.1, 0.2, 1e300)  # beyond float32: missing
    points = read_xyz(save_tiff(tmp_path / "a.tiff", double))
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points[0, 0], 0)
    np.testing.assert_array_equal(points[1:], POINTS[1:])


def test_missing_points_become_zeros(tmp_path: Path) -> None:
    gaps = POINTS.copy()
    gaps[0, 0] = np.nan
    gaps[1, 2, 2] = np.inf
    gaps[3, 4, 0] = -np.inf
    points = read_xyz(save_tiff(tmp_path / "a.tiff", gaps))
    holes = (points == 0).all(axis=-1)
    assert np.argwhere(holes).tolist() == [[0, 0], [1, 2], [3, 4]]
    np.testing.assert_array_equal(points[~holes], POINTS[~holes])


def test_empty_cloud_is_returned(tmp_path: Path) -> None:
    assert not read_xyz(save_tiff(tmp_path / "a.tiff", np.full((3, 4, 3), np.nan, np.float32))).any()


def test_sub_image_is_not_a_second_cloud(tmp_path: Path) -> None:
    """HALCON hangs a mask of the valid region below the cloud."""
    with tifffile.TiffWriter(tmp_path / "a.tiff") as tiff:
        tiff.write(POINTS, photometric="rgb", subifds=1)
        tiff.write(np.zeros((12, 17), np.uint8), photometric="minisblack")
    np.testing.assert_array_equal(read_xyz(tmp_path / "a.tiff"), POINTS)


def test_suffix_in_capitals(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_xyz(save_tiff(tmp_path / "a.TIFF", POINTS)), POINTS)


# Point clouds that are refused


@pytest.mark.parametrize("name", ["a.stl", "a", ".tiff"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    path = save_tiff(tmp_path / "a.tiff", POINTS).rename(tmp_path / name)
    message = refusal(read_xyz, path)
    assert f"a file ending in {path.suffix or 'nothing'}." in message
    assert ".tiff, .tif, .ply, .pcd, .npz, .png" in message


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 12, 17), {"photometric": "minisblack"}),
        ((3, 12, 17), {"planarconfig": "separate"}),
        ((12, 17, 4), {}),
        ((2, 12, 17, 3), {}),
    ],
)
def test_wrong_shape(tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    path = save_tiff(tmp_path / "a.tiff", np.ones(shape, np.float32), **options)
    message = refusal(read_xyz, path)
    assert f"[{', '.join(map(str, shape))}]" in message and "channels last" in message


def test_several_clouds_in_one_file(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tiff") as tiff:
        tiff.write(POINTS, photometric="rgb")
        tiff.write(POINTS[:5], photometric="rgb")
    assert "2 images in one file" in refusal(read_xyz, tmp_path / "a.tiff")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float16])
def test_wrong_dtype(tmp_path: Path, dtype: Any) -> None:
    message = refusal(read_xyz, save_tiff(tmp_path / "a.tiff", np.ones((4, 5, 3), dtype)))
    assert f"{np.dtype(dtype)} values" in message and "float32" in message


def test_millimetres(tmp_path: Path) -> None:
    millimetres = POINTS.copy()
    millimetres[..., 2] = 612.5
    millimetres[:4] = 0
    message = refusal(read_xyz, save_tiff(tmp_path / "a.tiff", millimetres))
    assert "median distance of 612.5" in message and "millimetres" in message
    millimetres[..., 2] *= -1
    assert "612.5" in refusal(read_xyz, save_tiff(tmp_path / "a.tiff", millimetres))


def test_not_a_tiff(tmp_path: Path) -> None:
    message = refusal(read_xyz, save_image(tmp_path / "a.tif", PIXELS, format="PNG"))
    assert "found a file that is not a TIFF" in message and "Save the cloud as TIFF" in message
    (tmp_path / "b.tiff").write_text("MMMM")
    assert "damaged" in refusal(read_xyz, tmp_path / "b.tiff")


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib"}])
def test_truncated_cloud(tmp_path: Path, options: dict[str, Any]) -> None:
    path = save_tiff(tmp_path / "a.tiff", POINTS, **options)
    whole = path.read_bytes()
    for length in (3, 4, 8, 50, 200, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        message = refusal(read_xyz, path)
        assert "damaged or incomplete" in message and "record the sample again" in message


def tag_value_offset(path: Path, code: int) -> int:
    with tifffile.TiffFile(path) as tiff:
        return int(tiff.pages.first.tags[code].valueoffset)


def patch(path: Path, offset: int, value: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(value)] = value
    path.write_bytes(data)


def test_compression_that_needs_another_package(tmp_path: Path) -> None:
    path = save_tiff(tmp_path / "a.tiff", POINTS, byteorder="<")
    patch(path, tag_value_offset(path, 259), (5).to_bytes(2, "little"))
    message = refusal(read_xyz, path)
    assert "LZW compression" in message and "Save the file uncompressed" in message


def test_huge_cloud_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_POINTS", 203)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lambda self: pytest.fail("decoded"))
    assert "17×12 points" in refusal(read_xyz, save_tiff(tmp_path / "a.tiff", POINTS))


@pytest.mark.seconds
@pytest.mark.parametrize("compression", ["zlib", "lzma"])
def test_bomb_in_a_strip_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    path = save_tiff(
        tmp_path / "a.tiff", np.zeros((4000, 1000, 3), np.float32), compression=compression, rowsperstrip=4000
    )
    for code, rows in ((257, 12), (278, 12)):  # the image is said to have 12 rows only
        patch(path, tag_value_offset(path, code), rows.to_bytes(2, "little"))
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lambda self: pytest.fail("decoded"))
    assert "data that expand to more than the image" in refusal(read_xyz, path)


def test_strip_of_hostile_size(tmp_path: Path) -> None:
    path = save_tiff(tmp_path / "a.tiff", POINTS, compression="zlib", byteorder="<", bigtiff=False, rowsperstrip=12)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags[279]
        assert tag.count == 1
        width = {3: 2, 4: 4}[int(tag.dtype)]
        offset = tag.valueoffset
    patch(path, offset, b"\xff" * width)
    assert "bytes early" in refusal(read_xyz, path)


def test_nothing_is_printed_about_a_damaged_cloud(tmp_path: Path) -> None:
    """In a process of its own: pytest's own log handler would hide what Python prints by default."""
    path = save_tiff(tmp_path / "a.tiff", POINTS)
    path.write_bytes(path.read_bytes()[:200])
    code = "import sys, cmdiad_runtime.readers as r\ntry: r.read_xyz(sys.argv[1])\nexcept Exception: pass"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    assert done.stdout == b"" and done.stderr == b""
