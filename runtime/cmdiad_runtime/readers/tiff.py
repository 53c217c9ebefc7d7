"""Reader of organised point clouds and depth images in TIFF files."""

from __future__ import annotations

import logging
import lzma
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt
import tifffile

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._cloud import finish_cloud
from cmdiad_runtime.readers._files import FilePath, check_points, decoding, open_input, too_many
from cmdiad_runtime.readers._tiff_directories import check_directories
from cmdiad_runtime.readers.depth import DEPTH_TYPES, cloud_of_depth
from cmdiad_runtime.sample import XyzImage

_EXPECTED = (
    "an organised point cloud: one TIFF image [h, w, 3] of float32 x y z in metres,"
    " or a depth image [h, w] of uint16 or float32"
)
_BYTE_ORDERS = (b"II", b"MM")
"""First two bytes of a TIFF file."""
_COMPRESSIONS = (
    tifffile.COMPRESSION.NONE,
    tifffile.COMPRESSION.ADOBE_DEFLATE,
    tifffile.COMPRESSION.DEFLATE,
    tifffile.COMPRESSION.LZMA,
)
"""Compressions that tifffile decodes without the package imagecodecs, which the runtime does not install."""
_MAX_LZMA_MEMORY = 256 << 20
_TILE_PADDING = 16 << 20
"""Bytes by which a tile may be larger than its image."""
_ALL_PADDING = 64 << 20
"""Bytes by which all tiles together may be larger than their image."""
_FOREIGN_KINDS = {
    f"is_{kind}": False for kind in ("ome", "imagej", "lsm", "ndtiff", "mmstack", "stk", "fluoview", "scanimage", "nih")
}
"""Conventions of microscopes, which combine pages by text in the file and may open further files."""

# tifffile logs problems of a file. Without a handler, Python would print them on the terminal of the operator.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read_tiff(path: FilePath) -> XyzImage:
    """Read an organised point cloud, or a depth image with its intrinsics, from a TIFF file.

    Args:
        path: TIFF file with one image, uncompressed or compressed with deflate or LZMA: `[h, w, 3]` (channels last),
            float32 or float64; or depth `[h, w]`, uint16, float32 or float64.

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where the sensor saw nothing.

    Raises:
        InputError: The file is missing, empty, damaged or not a TIFF; it contains another shape, several images or
            another type; it is beyond a limit (see `limits`) or in millimetres; or a depth image has no intrinsics
            (see `cloud_of_depth`).
    """
    image = _read_array(path)
    return cloud_of_depth(path, image) if image.ndim == 2 else finish_cloud(path, image)


def _read_array(path: FilePath) -> npt.NDArray[Any]:
    """Read the only image of a TIFF file: a cloud `[h, w, 3]`, or depth `[h, w]`."""
    with open_input(path, expected=_EXPECTED) as file:
        if file.read(2) not in _BYTE_ORDERS:
            _refuse(path, "a file that is not a TIFF", "save the cloud as TIFF")
        with decoding(path, expected=_EXPECTED):
            check_directories(file)
            file.seek(0)
        with decoding(path, expected=_EXPECTED), _open(file) as tiff:
            series = tiff.series[0]  # A mask in a sub-image, as HALCON writes it, is a separate series.
            if len(series.pages) != len(tiff.pages):
                _refuse(path, f"{len(tiff.pages)} images in one file", "save each cloud as a separate file")
            _check_layout(path, series.shape, series.dtype)
            _check_compression(path, tiff)
            _check_segments(file, tiff, series)
            image = series.asarray()
            if image.shape != series.shape or image.size == 0:
                raise ValueError(f"data of shape {list(image.shape)}, but a header with {list(series.shape)}")
            return image


def _open(file: BinaryIO) -> tifffile.TiffFile:
    return tifffile.TiffFile(file, **_FOREIGN_KINDS)  # type: ignore[arg-type]  # its flags follow the mode


def _refuse(path: FilePath, problem: str, action: str) -> NoReturn:
    raise InputError(path, found=problem, expected=_EXPECTED, action=action, reason="unsupported")


def _check_layout(path: FilePath, shape: tuple[int, ...], dtype: np.dtype[Any] | None) -> None:
    if len(shape) != 2 and (len(shape) != 3 or shape[2] != 3):
        problem = f"an array of shape [{', '.join(map(str, shape))}]"
        _refuse(path, problem, "save x, y and z as the three channels of one image, channels last")
    if len(shape) == 2 and dtype not in DEPTH_TYPES:
        _refuse(path, f"a depth image of {dtype} values", "save depth as uint16 or float32")
    if len(shape) == 3 and (dtype is None or dtype.kind != "f" or dtype.itemsize not in (4, 8)):
        _refuse(path, f"{dtype} values", "convert the sensor's values to metres and save them as float32")
    check_points(path, shape[0], shape[1])


def _check_compression(path: FilePath, tiff: tifffile.TiffFile) -> None:
    """Refuse a compression that only some installations could decode."""
    page = tiff.pages.first
    if tifffile.COMPRESSION(page.compression) not in _COMPRESSIONS or page.predictor not in (0, 1):
        problem = f"{tifffile.COMPRESSION(page.compression).name} compression (predictor {int(page.predictor)})"
        _refuse(path, problem, "save the file uncompressed")


def _check_segments(file: BinaryIO, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Check that all data are in the file and do not expand to more than the image; tifffile does not check this.

    Raises:
        ContentError: There are too many strips or tiles.
        EOFError: A strip or tile lies beyond the end of the file.
        ValueError: A strip or tile is missing, empty or too short, or the data expand to more than the image.
        lzma.LZMAError: A strip or tile would take too much memory to decompress.
    """
    end = os.fstat(file.fileno()).st_size
    most = 2 * series.nbytes + _TILE_PADDING
    left = 2 * series.nbytes + _ALL_PADDING  # Strips may share their data, so that a small file expands many times.
    segments = [segment for page in series.pages if page for segment in _segments(page)]
    if len(segments) > limits.MAX_TIFF_SEGMENTS:
        too_many(len(segments), "strips or tiles", limits.MAX_TIFF_SEGMENTS)
    compression = tiff.pages.first.compression
    if compression == tifffile.COMPRESSION.NONE and sum(size for _, size in segments) < series.nbytes:
        raise ValueError("less data than the image")  # tifffile would read what follows, or fill with zeros.
    for offset, size in segments:
        if offset + size > end:
            raise EOFError(f"it ends {offset + size - end} bytes early")
        if size <= 0:
            raise ValueError("a strip or tile without data")
        file.seek(offset)
        length = _decompressed_size(file, size, min(most, left), compression)
        left -= length
        if length > most or left < 0:
            raise ValueError("data that expand to more than the image")


def _segments(page: Any) -> Iterator[tuple[int, int]]:
    """Return offset and size of each strip or tile of a page.

    Raises:
        ValueError: The number is not that of the page's size; tifffile would fill missing ones with zeros, which stand
            for missing points.
    """
    count, expected = len(page.dataoffsets), math.prod(page.chunked)
    if count != expected:
        raise ValueError(f"{count} strips or tiles, but an image with {expected}")
    return zip(page.dataoffsets, page.databytecounts, strict=True)


def _decompressed_size(file: BinaryIO, size: int, most: int, compression: int) -> int:
    """Return the decompressed length of the next `size` bytes, at most `most` + 1."""
    if compression == tifffile.COMPRESSION.NONE:
        return size
    if compression == tifffile.COMPRESSION.LZMA:
        return len(lzma.LZMADecompressor(memlimit=_MAX_LZMA_MEMORY).decompress(file.read(size), most + 1))
    return len(zlib.decompressobj().decompress(file.read(size), most + 1))
