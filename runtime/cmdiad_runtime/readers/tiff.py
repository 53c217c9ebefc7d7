"""Reading organised point clouds from TIFF files."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._files import FilePath, check_size, decoding, open_input
from cmdiad_runtime.sample import XyzImage

_EXPECTED = "an organised point cloud: one TIFF image [h, w, 3] of float32 x y z in metres"
_BYTE_ORDERS = (b"II", b"MM")
"""How every TIFF file begins."""
_COMPRESSIONS = (
    tifffile.COMPRESSION.NONE,
    tifffile.COMPRESSION.ADOBE_DEFLATE,
    tifffile.COMPRESSION.DEFLATE,
    tifffile.COMPRESSION.LZMA,
)
"""What tifffile decodes without the package imagecodecs, which an edge box does without."""
_FARTHEST_METRES = 50.0
"""No inspection sensor looks farther; a larger median distance is in millimetres."""

# tifffile logs what it dislikes about a file; without this Python prints it on the operator's terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read_xyz(path: FilePath) -> XyzImage:
    """Read an organised point cloud from a TIFF file.

    A point with a NaN or infinite coordinate becomes three zeros. A cloud of nothing but missing points is
    returned as it is.

    Args:
        path: a TIFF file of one image `[h, w, 3]` (channels last), float32 or float64, uncompressed or in a
            compression that tifffile decodes by itself (deflate, LZMA).

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where the sensor saw nothing.

    Raises:
        InputError: the file is missing, empty, damaged or no TIFF; it holds another shape, several images or
            integers; it is larger than 100 million points; or its median distance says that it is in
            millimetres.
    """
    points = _without_missing(_read_array(path))
    _check_metres(path, points)
    return points


def _read_array(path: FilePath) -> npt.NDArray[np.floating[Any]]:
    """Read the only image of a TIFF file: float32 or float64 `[h, w, 3]`."""
    with open_input(path, expected=_EXPECTED) as file:
        if file.read(2) not in _BYTE_ORDERS:
            _refuse(path, "a file that is not a TIFF", "save the cloud as TIFF")
        file.seek(0)
        with decoding(path, expected=_EXPECTED), tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]  # a mask in a sub-image, as HALCON writes it, is a series of its own
            if len(series.pages) != len(tiff.pages):
                _refuse(path, f"{len(tiff.pages)} images in one file", "save each cloud as a file of its own")
            _check_layout(path, series.shape, series.dtype)
            _check_compression(path, tiff)
            return series.asarray()


def _refuse(path: FilePath, found: str, action: str) -> None:
    raise InputError(path, found=found, expected=_EXPECTED, action=action)


def _check_layout(path: FilePath, shape: tuple[int, ...], dtype: np.dtype[Any] | None) -> None:
    if len(shape) != 3 or shape[2] != 3:
        found = f"an array of shape [{', '.join(map(str, shape))}]"
        _refuse(path, found, "save x, y and z as the three channels of one image, channels last")
    if dtype is None or dtype.kind != "f" or dtype.itemsize not in (4, 8):
        _refuse(path, f"{dtype} values", "convert the sensor's values to metres and save them as float32")
    check_size(path, shape[0], shape[1])


def _check_compression(path: FilePath, tiff: tifffile.TiffFile) -> None:
    """Refuse a compression that only some installations could decode, and name it."""
    page = tiff.pages.first
    if tifffile.COMPRESSION(page.compression) not in _COMPRESSIONS or page.predictor not in (0, 1):
        found = f"{tifffile.COMPRESSION(page.compression).name} compression (predictor {int(page.predictor)})"
        _refuse(path, found, "save it uncompressed")


def _without_missing(points: npt.NDArray[np.floating[Any]]) -> XyzImage:
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.array(points, dtype=np.float32)
    cast[~np.isfinite(cast).all(axis=-1)] = 0.0
    return cast


def _check_metres(path: FilePath, points: XyzImage) -> None:
    valid = (points != 0).all(axis=-1)  # [h, w]
    if not valid.any():
        return
    distance = float(np.median(np.abs(points[valid, 2])))
    if distance > _FARTHEST_METRES:
        raise InputError(
            path,
            found=f"points at a median distance of {distance:.6g}",
            expected="coordinates in metres",
            action="these are surely millimetres: divide them by 1000 before saving",
        )
