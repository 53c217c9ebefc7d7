"""Opening of an image file with the decoder of its format, after the checks that the decoder does not make.

The content of a file decides about the format, not the name. `Image.open` of Pillow would try many more formats. Each
check ends before memory for pixels is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from PIL import (
    BmpImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._files import (
    EIGHT_BITS,
    PNG_HEADER_BYTES,
    PNG_SIGNATURE,
    ContentError,
    FilePath,
    bits_per,
    bounded,
    check_size,
    too_many,
)
from cmdiad_runtime.readers._jpeg import JPEG_SIGNATURE, check_jpeg
from cmdiad_runtime.readers._jpeg2000 import CODESTREAM, CONTAINER, check_jpeg2000
from cmdiad_runtime.readers._tiff_image import TIFF_SIGNATURES, check_tiff_image

_HEADER_BYTES = 34
_PNG_PALETTE = 3
_BMP_OLD_HEADER = 12
_BMP_UNPACKED = (0, 3)
"""Compressions of BMP that pack nothing: none, and channels that are selected by masks."""
_BMP_BITS = (1, 4, 8, 24, 32)
"""Bits per pixel of palettes, and of channels of 8 bits."""


def open_image(path: FilePath, file: BinaryIO) -> Image.Image:
    """Open an image and read its header.

    Args:
        path: File, for messages.
        file: The same file, at its beginning.

    Raises:
        InputError: The image has too many pixels.
        ContentError: The format is not supported, the numbers have other than 8 bits, or a limit is exceeded.
        Exception: The file is damaged; the kind depends on the decoder.
    """
    header = file.read(_HEADER_BYTES)
    file.seek(0)
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return _open_webp(path, file, header)
    for signatures, open_format in _FORMATS.items():
        if header.startswith(signatures):
            return open_format(path, file, header)
    raise ContentError("a file that is no image of these formats", "save the image as PNG or JPEG")


def check_bits(bits: int) -> None:
    """Raise ContentError for numbers of other than 8 bits, which Pillow would silently convert."""
    if bits != 8:
        raise ContentError(bits_per("channel", bits), EIGHT_BITS)


def _open_png(path: FilePath, file: BinaryIO, header: bytes) -> Image.Image:
    image = PngImagePlugin.PngImageFile(bounded(file))
    if header[25] != _PNG_PALETTE:
        check_bits(header[24])
    check_size(path, image.height, image.width)
    return image


def _open_jpeg(path: FilePath, file: BinaryIO, header: bytes) -> Image.Image:
    image = JpegImagePlugin.JpegImageFile(bounded(file))
    check_size(path, image.height, image.width)
    check_jpeg(file)
    return image


def _open_bmp(path: FilePath, file: BinaryIO, header: bytes) -> Image.Image:
    """Open a BMP image without run-length compression, which unpacks a small file without end."""
    old = header[14] == _BMP_OLD_HEADER
    bits = int.from_bytes(header[24:26] if old else header[28:30], "little")
    packing = 0 if old else int.from_bytes(header[30:34], "little")
    if packing not in _BMP_UNPACKED:
        raise ContentError("a compressed BMP image", "save the image uncompressed, or as PNG")
    if bits not in _BMP_BITS:
        raise ContentError(bits_per("pixel", bits), EIGHT_BITS)
    image = BmpImagePlugin.BmpImageFile(bounded(file))
    check_size(path, image.height, image.width)
    return image


def _open_tiff(path: FilePath, file: BinaryIO, header: bytes) -> Image.Image:
    check_tiff_image(path, file)
    file.seek(0)
    return TiffImagePlugin.TiffImageFile(bounded(file))


def _open_webp(path: FilePath, file: BinaryIO, header: bytes) -> Image.Image:
    """Open a WebP image. The decoder allocates whole images as soon as it is created."""
    if not WebPImagePlugin.SUPPORTED:
        raise ContentError("a WebP image, which this installation of Pillow cannot read", "save the image as PNG")
    height, width, animated = _webp_size(header)
    if animated:
        raise ContentError("several images in one file", "save each image as a separate file")
    _check_buffered(path, height, width)
    image = WebPImagePlugin.WebPImageFile(bounded(file))
    if image.size != (width, height):
        raise ValueError(f"{image.width}×{image.height} pixels, but a header with {width}×{height}")
    return image


def _webp_size(header: bytes) -> tuple[int, int, bool]:
    """Return height and width of a WebP image, and True for an animation (RFC 9649, section 2)."""
    kind, data = header[12:16], header[20:]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (4, 7))
        return height, width, bool(data[0] & 2)
    if kind == b"VP8L" and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, False
    if kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        return height, width, False
    raise ValueError("no header of a WebP image")


def _open_jpeg2000(path: FilePath, file: BinaryIO, header: bytes) -> Image.Image:
    height, width = check_jpeg2000(file)
    _check_buffered(path, height, width)
    file.seek(0)
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(bounded(file))
    if image.size != (width, height):
        raise ValueError(f"{image.width}×{image.height} pixels, but a codestream with {width}×{height}")
    if image.mode in ("P", "PA"):
        raise ContentError("a palette in a JPEG 2000 image", "save the image as RGB or grey")
    return image


def _check_buffered(path: FilePath, height: int, width: int) -> None:
    """Check the size of an image whose decoder keeps several copies of all pixels."""
    check_size(path, height, width)
    if height * width > limits.MAX_BUFFERED_PIXELS:
        too_many(height * width, "pixels in a WebP or JPEG 2000 image", limits.MAX_BUFFERED_PIXELS)


_FORMATS: dict[tuple[bytes, ...], Callable[[FilePath, BinaryIO, bytes], Image.Image]] = {
    (PNG_SIGNATURE,): _open_png,
    (JPEG_SIGNATURE,): _open_jpeg,
    (b"BM",): _open_bmp,
    TIFF_SIGNATURES: _open_tiff,
    (CODESTREAM, CONTAINER): _open_jpeg2000,
}
"""Function that opens a format, by the first bytes of a file."""
assert PNG_HEADER_BYTES <= _HEADER_BYTES
