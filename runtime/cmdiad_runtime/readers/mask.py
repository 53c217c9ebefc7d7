"""Reader of masks of defects: PNG, JPEG, BMP or TIFF of any usual kind. docs/formats.md states the rules.

A mask is read right or refused. Whoever draws a mask decides between black and white, colours and transparency, 8
and 16 bits; the reader accepts what has one meaning only.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import BmpImagePlugin, ExifTags, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from cmdiad_runtime.readers._files import (
    PNG_HEADER_BYTES,
    PNG_SIGNATURE,
    ContentError,
    FilePath,
    bounded,
    check_size,
    decoding,
    open_input,
)
from cmdiad_runtime.readers._jpeg import JPEG_SIGNATURE, check_jpeg
from cmdiad_runtime.readers._orientation import load_upright
from cmdiad_runtime.readers._tiff_directories import check_directories
from cmdiad_runtime.readers._tiff_image import check_byte_order
from cmdiad_runtime.sample import Mask

_EXPECTED = "a mask of the defect: white (or one colour) on black, as PNG, JPEG, BMP or TIFF"
_AGAIN = "save the mask as an 8-bit grey PNG with 255 on the defect and 0 elsewhere"
_BMP, _TIFF = b"BM", (b"II", b"MM")
_MOST_LABELS = 32
"""Whole numbers up to this are labels of defects or instances, not grey levels."""
_MOST_BETWEEN = 0.05
"""Largest share of pixels that are neither black nor white, at soft edges or from the compression of JPEG."""
_COLOURED = 0.25
"""Difference of a pixel's channels from which on an image is coloured, as a share of full scale."""

_Plane = npt.NDArray[np.float32]
"""Float32 `[h, w]`, 0 for black, 1 for white."""


def read_mask(path: FilePath, *, level: int | None = None) -> Mask:
    """Read the mask of a defect.

    Args:
        path: Mask file. The content, not the name, decides about the format.
        level: Grey level of 0-255 above which a pixel is defective, for data sets that define one; None to decide by
            the rules of docs/formats.md.

    Returns:
        bool `[h, w]`, True on the defect; all False if the mask is black. As for images, an EXIF orientation is
        applied.

    Raises:
        InputError: The file is missing, damaged, beyond a limit (see `limits`), or in another format; or its
            meaning is ambiguous: grey values between black and white, one value everywhere that is
            not 0, colours on neither black nor white, or as much white as black at the border.
    """
    with open_input(path, expected=_EXPECTED) as file, decoding(path, expected=_EXPECTED):
        values, alpha = _read_values(path, file)  # [h, w, c], [h, w] or None
        if level is not None:
            return np.asarray(np.rint(values.max(axis=2) * 255) > level)
        if alpha is None or alpha.min() == alpha.max() > 0:
            return _of_values(values)
        return _of_transparency(values, alpha)


def _read_values(path: FilePath, file: BinaryIO) -> tuple[npt.NDArray[np.float32], _Plane | None]:
    """Return channels `[h, w, c]` and transparency `[h, w]`, both with full scale 1; labels keep their numbers."""
    header = file.read(PNG_HEADER_BYTES)
    file.seek(0)
    if header[:2] in _TIFF:
        check_directories(file)
        file.seek(0)
        raw = _read_raw_tiff(path, file)
        if raw is not None:
            return raw, None
        file.seek(0)
    image = _open(file, header)
    check_size(path, image.height, image.width)
    if header.startswith(JPEG_SIGNATURE):
        check_jpeg(file)
    _check_image(image)
    image = load_upright(image)
    if image.mode in ("P", "PA") or image.has_transparency_data:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    array = np.asarray(image)
    scaled = _scaled(array if array.ndim == 3 else array[..., None])
    if header.startswith(JPEG_SIGNATURE) and 0 < scaled.max() < 0.75:
        raise ContentError("a JPEG image without white", _AGAIN)  # JPEG does not keep labels such as 0 and 1.
    if image.mode in ("LA", "RGBA"):
        return scaled[..., :-1], scaled[..., -1]
    return scaled, None


def _open(file: BinaryIO, header: bytes) -> Image.Image:
    """Open an image with the plugin of its format; `Image.open` would try many more formats."""
    data = bounded(file)
    if header.startswith(PNG_SIGNATURE):
        if header[24] == 16 and header[25] != 0:
            raise ContentError("a mask of 16 bits per colour", _AGAIN)  # Pillow would drop the lower 8 bits.
        return PngImagePlugin.PngImageFile(data)
    if header.startswith(JPEG_SIGNATURE):
        return JpegImagePlugin.JpegImageFile(data)
    if header.startswith(_BMP):
        return BmpImagePlugin.BmpImageFile(data)
    if header[:2] in _TIFF:
        check_byte_order(header)
        return TiffImagePlugin.TiffImageFile(data)
    raise ContentError("a file that is neither PNG, JPEG, BMP nor TIFF", _AGAIN)


def _read_raw_tiff(path: FilePath, file: BinaryIO) -> npt.NDArray[np.float32] | None:
    """Return the numbers of a TIFF with grey or RGB values `[h, w, c]`, or None if Pillow must decode the file."""
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        if len(tiff.pages) != 1:
            raise ContentError(f"{len(tiff.pages)} images in one file", "save each mask as a separate file")
        plain = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        if not plain or page.compression != tifffile.COMPRESSION.NONE or page.bitspersample < 8:
            return None
        if page.extrasamples or len(page.shape) not in (2, 3) or page.dtype is None:
            return None
        if page.tags.valueof(ExifTags.Base.Orientation, default=1) != 1:
            return None  # Only Pillow turns images upright.
        check_size(path, page.shape[0], page.shape[1])
        if sum(page.databytecounts) < page.nbytes:
            raise EOFError("strips without data")
        array = page.asarray()
    return _scaled(array if array.ndim == 3 else array[..., None])


def _check_image(image: Image.Image) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise ContentError("several images in one file", "save each mask as a separate file")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise ContentError(f"the colour model {image.mode}", _AGAIN)


def _scaled(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return values with full scale 1, float32 of the same shape.

    Full scale is the largest number of an 8-bit type. For other types, full scale is the smallest of 1, 255 and 65535
    that is not exceeded, because nobody stores masks in steps of 16-bit brightness.

    Raises:
        ContentError: Values are negative, not finite, or too large.
    """
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 65_535):  # False for NaN
        raise ContentError(f"values from {low:g} to {high:g}", _AGAIN)
    whole = array.dtype == np.uint8 or high > 1
    full = 65_535 if high > 255 else 255 if whole else 1
    return array.astype(np.float32) / np.float32(full)


def _of_values(values: npt.NDArray[np.float32]) -> Mask:
    """Return the mask of channels `[h, w, c]` that are not transparent."""
    if values.shape[2] == 1:
        return _of_grey(values[..., 0])
    low, high = values.min(axis=2), values.max(axis=2)
    if (high - low).max() < _COLOURED:
        return _of_grey(values.mean(axis=2, dtype=np.float32) if (high != low).any() else high)
    background = np.median(_border(values), axis=0)  # [c]
    if background.max() < _COLOURED:
        return _of_grey(high)
    if background.min() > 1 - _COLOURED:
        return _of_grey(1 - low)
    raise ContentError("a coloured mask whose background is neither black nor white", _AGAIN)


def _of_transparency(values: npt.NDArray[np.float32], alpha: _Plane) -> Mask:
    """Return the pixels that are not transparent, if their colours do not contradict."""
    opaque = _of_grey(alpha)
    for kind in (opaque, ~opaque):
        if kind.any() and np.ptp(values[kind].max(axis=1)) >= 0.5:
            raise ContentError("a mask with transparency and different brightness", _AGAIN)
    return opaque


def _of_grey(plane: _Plane) -> Mask:
    """Return the bright pixels of a plane, or the dark ones if the mask is inverted.

    Raises:
        ContentError: The meaning is ambiguous; see `read_mask`.
    """
    white = _white(plane)
    border = _border(white)
    if not white.any():
        return white
    if white.all():
        raise ContentError("a mask of one value everywhere that is not 0", f"{_AGAIN}; a mask without defect is black")
    inverted = bool(border.all())
    if inverted != (white.mean() > 0.5) and not (white.mean() > 0.5 and not border.any()):
        raise ContentError("a mask in which white may be the defect or the background", _AGAIN)
    return ~white if inverted else white


def _white(plane: _Plane) -> Mask:
    """Return the pixels that are white, or not 0 in a mask of labels.

    Raises:
        ContentError: Too many values lie between black and white.
    """
    levels = np.unique(plane)
    if levels[-1] == 0:
        return np.zeros(plane.shape, dtype=np.bool_)
    few = len(levels) <= _MOST_LABELS
    if levels[0] == 0 and few and (len(levels) == 2 or _are_labels(levels)):
        return plane > 0
    if len(levels) == 1:
        return np.ones(plane.shape, dtype=np.bool_)
    between = ((plane > 0.25) & (plane < 0.75)).mean()
    if levels[-1] < 0.75 or levels[0] > 0.25 or between > _MOST_BETWEEN:
        raise ContentError(f"grey values from {levels[0]:.3g} to {levels[-1]:.3g} of full scale", _AGAIN)
    return plane > 0.5


def _are_labels(levels: _Plane) -> bool:
    """Return True if all levels are small whole numbers, in a type whose full scale is 255."""
    numbers = levels * 255
    return bool(numbers[-1] <= _MOST_LABELS and np.allclose(numbers, np.rint(numbers), atol=1e-3))


def _border(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the pixels at the border of an image, `[n, ...]`."""
    return np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
