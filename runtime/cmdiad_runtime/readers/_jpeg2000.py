"""Check of the structure of a JPEG 2000 file before a decoder follows it.

ISO/IEC 15444-1, annexes A and I: a codestream is a main header and one or more parts of every tile, each with its
length; a JP2 file wraps the codestream in boxes. The decoder fills missing tiles with one colour and shortens numbers
of more than 8 bits, both without a word, and trusts the number of layers.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._files import ContentError, bits_per, too_many

CODESTREAM = b"\xff\x4f\xff\x51"
"""First bytes of a codestream: its beginning and the marker of its size."""
CONTAINER = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
"""First bytes of a JP2 file."""

_END, _TILE_PART, _CODING = 0xFFD9, 0xFF90, 0xFF52
_END_BYTES = 2
_BITS = 7
"""Stored value of unsigned numbers of 8 bits."""


@dataclass(frozen=True)
class _Size:
    """The part of the main header that states sizes.

    Attributes:
        height: Rows of the image.
        width: Columns of the image.
        tiles: Number of tiles.
    """

    height: int
    width: int
    tiles: int


def check_jpeg2000(file: BinaryIO) -> tuple[int, int]:
    """Check a JPEG 2000 file, and return height and width in pixels.

    Raises:
        ContentError: Numbers have other than 8 bits, channels have different sizes, or a limit is exceeded.
        EOFError: The file ends early.
        ValueError: The structure is damaged, or a tile is missing.
    """
    file.seek(0)
    start, end = 0, os.fstat(file.fileno()).st_size
    if not file.read(len(CODESTREAM)).startswith(CODESTREAM):
        start, end = _find_codestream(file, end)
    file.seek(start)
    if file.read(len(CODESTREAM)) != CODESTREAM:
        raise ValueError("no codestream")
    size = _read_size(file)
    _check_main_header(file)
    _check_tiles(file, end, size.tiles)
    return size.height, size.width


def _numbers(file: BinaryIO, codes: str) -> tuple[int, ...]:
    data = file.read(struct.calcsize(f">{codes}"))
    if len(data) < struct.calcsize(f">{codes}"):
        raise EOFError("it ends inside a header")
    return struct.unpack(f">{codes}", data)


def _find_codestream(file: BinaryIO, end: int) -> tuple[int, int]:
    """Return beginning and end of the codestream in a JP2 file."""
    place = len(CONTAINER)
    for _ in range(limits.MAX_JPEG2000_HEADERS):
        file.seek(place)
        length, kind = _numbers(file, "II")
        head = 8
        if length == 1:
            (length,) = _numbers(file, "Q")
            head = 16
        following = end if length == 0 else place + length
        if following > end:
            raise EOFError(f"it ends {following - end} bytes early")
        if following < place + head:
            raise ValueError("a box without its header")
        name = kind.to_bytes(4, "big")
        if name == b"jp2c":
            return place + head, following
        if name == b"jp2h" and following - place > limits.MAX_HEADER_BYTES:
            too_many(following - place, "bytes in a JP2 header", limits.MAX_HEADER_BYTES)
        place = following
    return too_many(limits.MAX_JPEG2000_HEADERS, "or more boxes before the image", limits.MAX_JPEG2000_HEADERS)


def _read_size(file: BinaryIO) -> _Size:
    length, _, right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, channels = _numbers(
        file, "HHIIIIIIIIH"
    )
    if length != 38 + 3 * channels or not 1 <= channels <= 4:
        raise ContentError(f"{channels} channels", "save the image as 8-bit RGB or grey")
    for _ in range(channels):
        bits, across, down = _numbers(file, "BBB")
        if bits != _BITS:
            raise ContentError(bits_per("channel", (bits & 127) + 1), "set the camera to 8 bits per channel, unsigned")
        if (across, down) != (1, 1):
            raise ContentError("channels of different sizes", "save the image without subsampling of colours")
    if tile_width == 0 or tile_height == 0 or right <= left or bottom <= top:
        raise ValueError("an image or tile without pixels")
    tiles = -((tile_left - right) // tile_width) * -((tile_top - bottom) // tile_height)
    if tiles > limits.MAX_JPEG2000_TILE_PARTS:
        too_many(tiles, "tiles in a JPEG 2000 image", limits.MAX_JPEG2000_TILE_PARTS)
    return _Size(bottom - top, right - left, tiles)


def _check_main_header(file: BinaryIO) -> None:
    """Check the markers before the first tile-part, and leave the file there."""
    for _ in range(limits.MAX_JPEG2000_HEADERS):
        place = file.tell()
        marker, length = _numbers(file, "HH")
        if marker == _TILE_PART:
            file.seek(place)
            return
        if marker == _CODING:
            _, _, layers = _numbers(file, "BBH")
            if layers > limits.MAX_JPEG2000_LAYERS:
                too_many(layers, "layers in a JPEG 2000 image", limits.MAX_JPEG2000_LAYERS)
        if marker < 0xFF00 or length < 2:
            raise ValueError("a damaged header")
        file.seek(place + 2 + length)
    too_many(limits.MAX_JPEG2000_HEADERS, "or more headers in a JPEG 2000 image", limits.MAX_JPEG2000_HEADERS)


def _check_tiles(file: BinaryIO, end: int, tiles: int) -> None:
    """Check that all parts of all tiles are in the file."""
    seen: set[int] = set()
    for _ in range(limits.MAX_JPEG2000_TILE_PARTS + 1):
        place = file.tell()
        (marker,) = _numbers(file, "H")
        if marker == _END:
            if seen != set(range(tiles)):
                raise ValueError(f"{len(seen)} of {tiles} tiles")
            return
        _, tile, length, _, _ = _numbers(file, "HHIBB")
        following = end - _END_BYTES if length == 0 else place + length
        if marker != _TILE_PART or following <= place:
            raise ValueError("a damaged tile")
        if following > end - _END_BYTES:
            raise EOFError(f"it ends {following + _END_BYTES - end} bytes early")
        seen.add(tile)
        file.seek(following)
    too_many(limits.MAX_JPEG2000_TILE_PARTS, "or more tile-parts", limits.MAX_JPEG2000_TILE_PARTS)
