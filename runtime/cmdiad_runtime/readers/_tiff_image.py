"""Images of cameras in TIFF files: what tells them from clouds, and the checks that Pillow and libtiff do not make.

Adobe, TIFF Revision 6.0, 1992. A float image is a cloud or depth, one of 8 bits is a picture; 16-bit grey may be both.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal

from cmdiad_runtime.names import Modality
from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._files import EIGHT_BITS, GREY16, ContentError, FilePath, bits_per, check_size
from cmdiad_runtime.readers._tiff_directories import Directory, check_directories, first_directory
from cmdiad_runtime.support.regular_file import open_regular

_BIG_ENDIAN_BIGTIFF = b"MM\0+"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", _BIG_ENDIAN_BIGTIFF)
"""First bytes of TIFF and BigTIFF files."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _CHANNELS = 256, 257, 258, 259, 262, 277
_STRIP_OFFSETS, _ROWS_PER_STRIP, _PLANES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _FORMAT = (
    *(273, 278, 284),
    *(322, 323, 324, 339),
)
_UNSIGNED, _FLOAT = 1, 3
_BLACK_IS_ZERO = 1
_PALETTE = 3
_SEPARATE_PLANES = 2
_TILE_PADDING = 1024
"""Pixels by which a tile may be wider or higher than its image."""
_COMPRESSIONS = (1, 5, 8, 32_773, 32_946)
"""None, LZW, deflate and PackBits, whose decoders notice missing data."""


def modality_of_tiff(path: FilePath) -> Modality | None:
    """Return the modality of a TIFF file from its first directory, or None if the directory does not decide.

    Float numbers are a cloud or depth. Numbers of 8 bits, and colours of any size, are an image. Grey of 16 bits is a
    depth image or the image of a camera, and a file that cannot be read may be both.
    """
    try:
        with open_regular(Path(path), follow=True) as file:
            directory = first_directory(file)
    except (OSError, ValueError, EOFError, ContentError):
        return None
    if _FLOAT in directory.values.get(_FORMAT, ()):
        return "xyz"
    bits = max(directory.values.get(_BITS, (1,)))
    return "rgb" if bits <= 8 or directory.first(_CHANNELS, 1) > 2 else None


def check_tiff_image(path: FilePath, file: BinaryIO, *, bits: Literal[8, 16] = 8) -> None:
    """Check the size of an image, its directories and the place of its pixels.

    Args:
        path: File, for messages.
        file: The same file.
        bits: Required bits of a channel; 16 for grey images in which 0 is black.

    Raises:
        InputError: The image has too many pixels.
        ContentError: Numbers have other bits, the compression is not supported, a limit is exceeded, or the file is a
            BigTIFF in big-endian order.
        EOFError: The file ends inside a directory.
        ValueError: The directory is damaged, or strips or tiles are missing.
    """
    check_directories(file)
    directory = first_directory(file)
    height, width = directory.first(_HEIGHT, 0), directory.first(_WIDTH, 0)
    check_size(path, height, width)
    _check_bits(directory, bits)
    if set(directory.values.get(_FORMAT, (_UNSIGNED,))) != {_UNSIGNED}:
        raise ContentError("numbers with a sign or a fraction", GREY16 if bits == 16 else EIGHT_BITS)
    if directory.first(_COMPRESSION, 1) not in _COMPRESSIONS:
        raise ContentError("a TIFF image compressed in another way", "save the image uncompressed, or with LZW")
    _check_pieces(directory, height, width)
    file.seek(0)
    check_byte_order(file.read(len(_BIG_ENDIAN_BIGTIFF)))


def check_byte_order(header: bytes) -> None:
    """Raise ContentError for a BigTIFF in big-endian order, which Pillow 13 takes for a damaged TIFF.

    Args:
        header: First bytes of an image or a mask.
    """
    if header.startswith(_BIG_ENDIAN_BIGTIFF):
        problem = "an image in a BigTIFF file in big-endian order, which Pillow cannot read"
        raise ContentError(problem, "save the file in little-endian order")


def _check_bits(directory: Directory, required: int) -> None:
    bits = set(directory.values.get(_BITS, (1,)))
    meaning = directory.first(_PHOTOMETRIC, 0)
    if required == 16:
        if bits != {16} or meaning != _BLACK_IS_ZERO:
            raise ContentError(f"{bits_per('channel', max(bits))}, or a TIFF image in which 0 is not black", GREY16)
    elif bits != {8} and not (meaning == _PALETTE and max(bits) <= 8):
        raise ContentError(bits_per("channel", max(bits)), EIGHT_BITS)


def _check_pieces(directory: Directory, height: int, width: int) -> None:
    """Check that strips or tiles cover the image and are hardly larger; Pillow leaves missing ones black."""
    if height < 1 or width < 1:
        raise ValueError("an image without pixels")
    piece = (min(directory.first(_ROWS_PER_STRIP, height), height), width)
    offsets = _STRIP_OFFSETS
    if _TILE_OFFSETS in directory.values:
        piece, offsets = (directory.first(_TILE_HEIGHT, 0), directory.first(_TILE_WIDTH, 0)), _TILE_OFFSETS
    if min(piece) < 1 or piece[0] > height + _TILE_PADDING or piece[1] > width + _TILE_PADDING:
        raise ValueError(f"strips or tiles of {piece[1]}×{piece[0]} pixels")
    planes = directory.first(_CHANNELS, 1) if directory.first(_PLANES, 1) == _SEPARATE_PLANES else 1
    expected = -(-height // piece[0]) * -(-width // piece[1]) * planes
    count = directory.counts.get(offsets, 0)
    if count != expected or expected > limits.MAX_TIFF_SEGMENTS:
        raise ValueError(f"{count} strips or tiles, but an image with {expected}")
