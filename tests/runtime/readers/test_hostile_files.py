"""Files made to hang a reader or to fill memory, and paths that lead to something else than a file."""

from __future__ import annotations

import builtins
import errno
import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
from PIL import Image

from cloud_files import GRID_NOTES, POINTS, depth_of, pcd, ply, records, write_intrinsics, write_samples
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import _files, limits, read_rgb, read_xyz
from cmdiad_runtime.readers.mask import read_mask
from cmdiad_runtime.support import regular_file

READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "image": (read_rgb, "a.png"),
    "mask": (read_mask, "a.png"),
    "tiff": (read_xyz, "a.tiff"),
    "ply": (read_xyz, "a.ply"),
    "pcd": (read_xyz, "a.pcd"),
    "npz": (read_xyz, "a.npz"),
    "depth": (read_xyz, "a.png"),
}


def refused(read: Callable[[Path], Any], path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: found ")
    return caught.value


# Paths


@pytest.mark.parametrize("kind", READERS)
def test_pipe_without_a_writer_does_not_wait(tmp_path: Path, kind: str) -> None:
    read, name = READERS[kind]
    os.mkfifo(tmp_path / name)
    error = refused(read, tmp_path / name)
    assert (error.found, error.reason) == ("a pipe", "not-a-file")


@pytest.mark.parametrize("kind", READERS)
def test_socket_device_folder_and_nothing(tmp_path: Path, kind: str) -> None:
    read, name = READERS[kind]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / name))
        assert refused(read, tmp_path / name).found == "a socket"
    suffix = Path(name).suffix
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    assert refused(read, tmp_path / f"zero{suffix}").found == "a device"
    (tmp_path / f"folder{suffix}").mkdir()
    for path in (tmp_path / name, tmp_path / f"zero{suffix}", tmp_path / f"folder{suffix}"):
        assert refused(read, path).reason == "not-a-file"
    assert refused(read, tmp_path / f"none{suffix}").reason == "missing-file"
    (tmp_path / f"circle{suffix}").symlink_to(f"circle{suffix}")
    assert refused(read, tmp_path / f"circle{suffix}").reason == "unreadable"


def test_pipe_that_replaces_the_file_before_the_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    os.mkfifo(path)
    plain = Path(__file__).stat()
    monkeypatch.setattr(regular_file, "_mode_of", lambda path, follow: plain.st_mode)
    assert refused(read_rgb, path).found == "a pipe"


@pytest.mark.parametrize("kind", READERS)
def test_empty_file(tmp_path: Path, kind: str) -> None:
    read, name = READERS[kind]
    (tmp_path / name).touch()
    assert refused(read, tmp_path / name).reason == "unreadable"


@pytest.mark.parametrize("kind", READERS)
def test_name_that_is_not_utf_8(tmp_path: Path, kind: str) -> None:
    read, name = READERS[kind]
    path = tmp_path / os.fsdecode(b"teil_\xfc\n" + name.encode())
    path.write_bytes(b"nothing")
    with pytest.raises(InputError) as caught:
        read(path)
    assert rf"teil_\xfc\n{name}: found " in str(caught.value)
    str(caught.value).encode("utf-8")


def test_files_of_any_name_are_read(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xe4\xff")
    folder.mkdir()
    for name, path in write_samples(folder).items():
        renamed = path.rename(folder / os.fsdecode(b"\xfc" + os.fsencode(name)))
        assert read_xyz(renamed).any()
    image = folder / os.fsdecode(b"\xfc.jpg")
    Image.new("RGB", (8, 8)).save(image)
    assert read_rgb(image).shape == (8, 8, 3)
    assert not read_mask(image).any()


@pytest.mark.parametrize("kind", READERS)
def test_file_beyond_the_limit_is_not_read(tmp_path: Path, kind: str) -> None:
    read, name = READERS[kind]
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)  # A hole: takes no disk.
    assert refused(read, tmp_path / name).reason == "too-large"


# Errors of the system


class Failing(io.BufferedReader):
    """A file on a failing disk: the first reads succeed."""

    def __init__(self, raw: Any, good_reads: int, error: BaseException) -> None:
        super().__init__(raw)
        self._left = good_reads
        self._error = error

    def read(self, *args: Any) -> bytes:
        self._count()
        return super().read(*args)

    def readline(self, *args: Any) -> bytes:
        self._count()
        return super().readline(*args)

    def readinto(self, *args: Any) -> int:
        self._count()
        return super().readinto(*args)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._error


@pytest.mark.parametrize("good_reads", range(5))
@pytest.mark.parametrize(
    ("error", "reason"), [(OSError(errno.EIO, "Input/output error"), "unreadable"), (MemoryError(), "out-of-memory")]
)
def test_failing_disk_and_short_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good_reads: int, error: BaseException, reason: str
) -> None:
    samples = write_samples(tmp_path)
    samples["image.png"], samples["image.jpg"] = tmp_path / "image.png", tmp_path / "image.jpg"
    for name in ("image.png", "image.jpg"):
        Image.new("RGB", (80, 80)).save(samples[name])
    real = builtins.open

    def failing(path: Any, *, follow: bool) -> Any:
        if Path(path).suffix == ".json":
            return real(path, "rb")
        return Failing(cast(Any, real(path, "rb")).detach(), good_reads, error)

    monkeypatch.setattr(_files, "open_regular", failing)
    for name, path in samples.items():
        for read in (read_rgb, read_mask) if name.startswith("image") else (read_xyz,):
            try:
                read(path)
            except InputError as caught:
                assert caught.reason == reason
                assert good_reads > 0 or reason != "unreadable" or "Input/output error" in str(caught)
            else:
                assert good_reads > 0


def test_memory_error_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = write_samples(tmp_path)
    monkeypatch.setattr(np, "array", lambda *a, **k: (_ for _ in ()).throw(MemoryError))
    for path in samples.values():
        assert refused(read_xyz, path).reason == "out-of-memory"


# Images


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [read_rgb, read_mask])
def test_damaged_palette(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    """Cut at every byte, without a palette, and with one of a wrong length."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).convert("P")
    image.save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    path = tmp_path / "a.png"
    for length in range(1, len(whole) - 20, 3):
        path.write_bytes(whole[:length])
        assert refused(read, path).reason in ("unreadable", "unsupported")
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(range(8)) for _ in range(8))))
    for palette in (b"", chunk(b"PLTE", b""), chunk(b"PLTE", bytes(5)), chunk(b"PLTE", bytes(900))):
        path.write_bytes(png(8, 8, palette, pixels, colour=3))
        try:
            read(path)
        except InputError as error:
            assert error.reason in ("unreadable", "unsupported")


@pytest.mark.seconds
def test_bombs(tmp_path: Path) -> None:
    """Files of some kilobytes that would unpack to gigabytes."""
    path = tmp_path / "a.png"
    path.write_bytes(png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(10**7), 9))))
    for read in (read_rgb, read_mask):
        assert refused(read, path).reason == "too-large"
    path.write_bytes(png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(10**7), 9)), depth=16, colour=0))
    assert refused(read_xyz, path).reason == "too-large"
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 28), 9))
    profile = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(1 << 28), 9))
    for bomb in (text, profile):
        path.write_bytes(png(8, 8, bomb, chunk(b"IDAT", zlib.compress(bytes(200)))))
        assert refused(read_rgb, path).reason == "unreadable"


@pytest.mark.parametrize("shape", [(2, 10_001), (10_001, 2)])
def test_narrow_picture_would_become_a_large_square(tmp_path: Path, shape: tuple[int, int]) -> None:
    """2 MB of pixels of 20,000 columns took 18 s and 1.5 GB, because the preparation pads to a square."""
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", shape).save(tmp_path / name)
        for read in (read_rgb, read_mask):
            assert refused(read, tmp_path / name).reason == "too-large"
    points = np.zeros((*shape, 3), np.float32)
    tifffile.imwrite(tmp_path / "a.tiff", points, photometric="rgb")
    np.savez(tmp_path / "a.npz", xyz=points)
    (tmp_path / "a.pcd").write_bytes(pcd(points))
    size = (f"obj_info num_cols {shape[1]}", f"obj_info num_rows {shape[0]}")
    (tmp_path / "a.ply").write_bytes(ply({"vertex": records(points)}, notes=size))
    for name in ("a.tiff", "a.npz", "a.pcd", "a.ply"):
        assert refused(read_xyz, tmp_path / name).reason == "too-large"


def test_jpeg_of_many_scans(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 64), "red").save(path, progressive=True)
    assert read_rgb(path).any()
    whole = path.read_bytes()
    scan = whole[whole.index(b"\xff\xda") : whole.index(b"\xff", whole.index(b"\xff\xda") + 2)]
    path.write_bytes(whole[:-2] + scan * limits.MAX_JPEG_SCANS + whole[-2:])
    for read in (read_rgb, read_mask):
        error = refused(read, path)
        assert error.reason == "too-large" and "scans" in error.found


# Clouds


@pytest.mark.seconds
def test_npz_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """A depth image of 200 KB would become 4.9 GB of points."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, depth=np.zeros((10_000, 10_000), np.uint16), intrinsics=[1.0, 1, 1, 1], depth_scale=1.0)
    assert path.stat().st_size < 250_000
    assert refused(read_xyz, path).reason == "too-large"


@pytest.mark.seconds
def test_npz_with_a_header_of_gigabytes(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xyz.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 27) + bytes(1 << 27))
    assert refused(read_xyz, path).reason == "too-large"


def test_npz_of_many_members(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "a.npz"
    np.savez(path, xyz=POINTS)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(limits.MAX_ARCHIVE_MEMBERS):
            archive.writestr(f"{number}", b"")
    assert refused(read_xyz, path).reason == "too-large"


def tiff_directories(*directories: list[tuple[int, int, int, int]], last: int = 0, first: int = 8) -> bytes:
    """A little-endian TIFF of a chain of directories with entries (tag, type, count, value)."""
    data = b"II*\0" + struct.pack("<I", first)
    for index, entries in enumerate(directories):
        end = len(data) + 2 + 12 * len(entries) + 4
        data += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        data += struct.pack("<I", last if index == len(directories) - 1 else end)
    return data


SMALL = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 32), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 4)]


@pytest.mark.parametrize("name", ["a.tiff", "mask"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff_directories(*[SMALL] * 200), "too-large"),
        (tiff_directories(*[[]] * 3000), "too-large"),
        (tiff_directories(SMALL, SMALL, last=8), "unreadable"),
        (tiff_directories([*SMALL, (330, 4, 4000, 8)]), "too-large"),
        (tiff_directories([*SMALL, (330, 4, 1, 8)]), "unreadable"),
        (tiff_directories([(256, 3, 1, 1)] * 1000), "too-large"),
        (tiff_directories([*SMALL, (270, 2, 1 << 30, 8)]), "too-large"),
        (tiff_directories([*SMALL[:4], (273, 4, 1 << 20, 8), (279, 4, 1 << 20, 8)]), "too-large"),
        (tiff_directories(SMALL, last=1 << 31), "unreadable"),
        (b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", 1 << 60), "too-large"),
    ],
)
def test_tiff_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, reason: str, name: str) -> None:
    """18 KB of directories kept a reader busy for 12 s; none is given to the library."""
    monkeypatch.setattr(tifffile, "TiffFile", lambda *a, **k: pytest.fail("opened"))
    path = tmp_path / "a.tiff"
    path.write_bytes(data)
    assert refused(read_mask if name == "mask" else read_xyz, path).reason == reason


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"subifds": 1}, {"tile": (16, 16)}])
def test_usual_tiff_files_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tiff"
    big, order = options.pop("bigtiff", False), options.pop("byteorder", "<")
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as writer:
        writer.write(POINTS, photometric="rgb", description="x" * 2000, **options)
        if "subifds" in options:
            writer.write(np.zeros((12, 17), np.uint8), subfiletype=1)
    np.testing.assert_array_equal(read_xyz(path), POINTS)


def test_strips_that_share_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 2000 strips names the same data, which unpack to a whole image."""
    height = 2000
    bomb = zlib.compress(bytes(height * 16 * 12), 9)
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, np.zeros((height, 16, 3), np.float32), photometric="rgb", compression="zlib", rowsperstrip=1)
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages.first.tags
        offsets, counts = (tags[code] for code in (273, 279))
        places = {code: (tags[code].valueoffset, tags[code].dtype) for code in (273, 279)}
        assert offsets.count == counts.count == height
    data = bytearray(path.read_bytes())
    end = len(data)
    for code, value in ((273, end), (279, len(bomb))):
        place, dtype = places[code]
        width = {3: 2, 4: 4, 16: 8}[int(dtype)]
        data[place : place + width * height] = value.to_bytes(width, "little") * height
    path.write_bytes(bytes(data) + bomb)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lambda self: pytest.fail("decoded"))
    assert path.stat().st_size < 60_000
    assert "expand to more than the image" in refused(read_xyz, path).found


def test_decoder_whose_numbers_overflow_prints_no_warning(tmp_path: Path) -> None:
    """As tifffile does with offsets of a damaged file. Pytest would make an error of the warning."""
    with _files.decoding(tmp_path / "a.tiff", expected="a file"):
        assert np.uint16(0) - np.uint16(1) == 65_535
        assert np.isinf(np.float32(1e30) * np.float32(1e30))


@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 4}, {"tile": (16, 16)}, {"compression": "zlib"}])
@pytest.mark.parametrize("big", [False, True])
def test_rows_without_a_strip_are_not_missing_points(tmp_path: Path, options: dict[str, Any], big: bool) -> None:
    """tifffile fills the rows that a header announces and no strip contains with zeros."""
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, POINTS, photometric="rgb", bigtiff=big, **options)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.tags["ImageLength"].valueoffset
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, place, 40)
    path.write_bytes(data)
    assert "strips or tiles, but an image with" in (found := refused(read_xyz, path)).found
    assert found.reason == "unreadable"


@pytest.mark.parametrize("rows", [24, 200_000])
def test_rows_behind_the_only_strip_are_not_read(tmp_path: Path, rows: int) -> None:
    """Most files have one uncompressed strip. Here, further bytes follow it in the file."""
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, POINTS, photometric="rgb", rowsperstrip=rows)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.tags["ImageLength"].valueoffset
    data = bytearray(path.read_bytes()) + bytes(100_000)
    struct.pack_into("<H", data, place, len(POINTS) + 8)
    path.write_bytes(data)
    assert (found := refused(read_xyz, path)).reason == "unreadable", found.found


def test_strip_without_data_is_not_a_strip_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, POINTS, photometric="rgb", compression="zlib", rowsperstrip=6)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.tags[279].valueoffset
        width = {3: 2, 4: 4}[int(tiff.pages.first.tags[279].dtype)]
    data = bytearray(path.read_bytes())
    data[place : place + width] = bytes(width)
    path.write_bytes(data)
    assert "without data" in refused(read_xyz, path).found


@pytest.mark.parametrize("word", ["width", "num_cols", "height"])
@pytest.mark.parametrize("gap", [" ", "\t", " =", "= ", " \t"])
def test_ply_header_of_blanks(tmp_path: Path, word: str, gap: str) -> None:
    """60 KB of blanks behind `width` took 21 s, because the expression tried every split of the blanks."""
    path = tmp_path / "a.ply"
    note = f"comment {word}{gap * (60_000 // len(gap))}x"
    path.write_bytes(ply({"vertex": records(POINTS)}, notes=(note, *GRID_NOTES)))
    np.testing.assert_array_equal(read_xyz(path), POINTS)


@pytest.mark.parametrize("note", ["obj_info width 1 height 1 " * 300, "comment num_cols 3 num_rows 4 " * 2000])
def test_ply_header_of_many_sizes(tmp_path: Path, note: str) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(ply({"vertex": records(POINTS)}, notes=(note,)))
    refused(read_xyz, path)
    different = " ".join(f"width {number} height {number}" for number in range(3000))
    path.write_bytes(ply({"vertex": records(POINTS)}, notes=(f"comment {different}",)))
    assert refused(read_xyz, path).reason == "too-large"


@pytest.mark.parametrize(
    "data",
    [
        b"ply\nformat ascii 1.0\n" + b"comment x\n" * 10_000,
        b"ply\nformat ascii 1.0\ncomment " + b"x" * 100_000,
        b"ply\nformat ascii 1.0\n" + b"".join(b"element e%d 1\n" % n for n in range(1000)) + b"end_header\n",
        b"ply\nformat ascii 1.0\nelement vertex 4\n"
        + b"".join(b"property float p%d\n" % n for n in range(1000))
        + b"end_header\n",
    ],
)
def test_large_headers(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.ply").write_bytes(data)
    assert refused(read_xyz, tmp_path / "a.ply").reason == "too-large"


def test_large_pcd_headers(tmp_path: Path) -> None:
    path = tmp_path / "a.pcd"
    for header in (
        {"FIELDS": " ".join(map(str, range(1000)))},
        {"FIELDS": "x y z w", "SIZE": "4 4 4 4", "TYPE": "F F F F", "COUNT": "1 1 1 5000"},
        {"VIEWPOINT": "0" * 70_000},
    ):
        path.write_bytes(pcd(POINTS, **header))
        assert refused(read_xyz, path).reason == "too-large"


def test_large_intrinsics(tmp_path: Path) -> None:
    Image.fromarray(depth_of()).save(tmp_path / "a.png")
    path = write_intrinsics(tmp_path / "a.json", note="x" * limits.MAX_JSON_BYTES)
    with pytest.raises(InputError) as caught:
        read_xyz(tmp_path / "a.png")
    assert caught.value.reason == "too-large" and caught.value.subject == str(path)
    for text in ("[" * 60_000, '{"fx": ' * 9_000, "1" * 60_000):
        path.write_text(text)
        with pytest.raises(InputError):
            read_xyz(tmp_path / "a.png")
    path.unlink()
    os.mkfifo(path)  # Not a file, so the next place is searched.
    with pytest.raises(InputError) as caught:
        read_xyz(tmp_path / "a.png")
    assert caught.value.reason == "missing-file"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.tiff", b"no"),
        ("a.ply", b"no"),
        ("a.pcd", b"no"),
        ("a.npz", b"no"),
        ("a.png", b"no"),
        ("a.xyz", b"1 2 3"),
    ],
)
def test_other_formats_are_unsupported(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert refused(read_xyz, tmp_path / name).reason == "unsupported"
    if name == "a.png":
        assert refused(read_rgb, tmp_path / name).reason == "unsupported"
