"""Check of the directories of a TIFF file before a library follows them.

Adobe, TIFF Revision 6.0, 1992, section 2: a file has a chain of directories, and a directory has entries of 12 bytes
(tag, type, number of values, value or offset). BigTIFF has the same with larger fields. A few bytes can describe a
chain without end or values of any size.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._files import too_many

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value, by type."""
_SEGMENT_TAGS = (273, 279, 324, 325)
"""Offsets and sizes of strips and tiles."""
_DIRECTORY_TAGS = (330, 34665, 34853, 40965)
"""Offsets of directories: sub-images, EXIF, GPS, interoperability."""
_CLASSIC, _BIG = 42, 43
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""`struct` code of unsigned whole numbers, by type."""
_MOST_VALUES = 8
"""Values of one tag that `first_directory` returns; no tag of an image's form has more channels."""


@dataclass(frozen=True)
class _Layout:
    """Field sizes of a TIFF or BigTIFF file.

    Attributes:
        order: Byte order of `struct`.
        offset: `struct` code of an offset.
        count: `struct` code of the number of entries of a directory.
    """

    order: str
    offset: str
    count: str

    def read(self, file: BinaryIO, codes: str) -> tuple[int, ...]:
        """Read numbers.

        Raises:
            EOFError: The file ends early.
        """
        size = struct.calcsize(self.order + codes)
        data = file.read(size)
        if len(data) < size:
            raise EOFError("it ends inside a directory")
        return struct.unpack(self.order + codes, data)


@dataclass(frozen=True)
class Directory:
    """The whole numbers of a directory.

    Attributes:
        values: Numbers by tag, at most the first eight of each tag; tags without numbers are left out.
        counts: Number of values by tag.
    """

    values: dict[int, tuple[int, ...]]
    counts: dict[int, int]

    def first(self, tag: int, otherwise: int) -> int:
        """Return the first number of a tag, or another one if the directory does not have the tag."""
        return self.values.get(tag, (otherwise,))[0]


def first_directory(file: BinaryIO) -> Directory:
    """Return the whole numbers in the first directory of a TIFF file.

    Raises:
        ContentError: The directory has more entries than `limits` allows.
        EOFError: The file ends early.
        ValueError: The file is not a TIFF.
    """
    layout, offset = _read_header(file)
    directory = Directory({}, {})
    for tag, kind, count, place, value in _entries(file, layout, offset):
        code = _WHOLE_NUMBERS.get(kind)
        if code is None or count == 0:
            continue
        directory.counts[tag] = count
        inside = count * _SIZES[kind] <= struct.calcsize(layout.offset)
        file.seek(place if inside else value)
        directory.values[tag] = layout.read(file, f"{min(count, _MOST_VALUES)}{code}")
    return directory


def check_directories(file: BinaryIO) -> None:
    """Check number and size of all directories, and the size of the values in them.

    Args:
        file: TIFF file.

    Raises:
        ContentError: There are more directories, entries, or values than `limits` allows.
        EOFError: A directory lies beyond the end of the file.
        ValueError: The file is not a TIFF, or the directories form a circle.
    """
    layout, first = _read_header(file)
    end = os.fstat(file.fileno()).st_size
    seen: set[int] = set()
    waiting = [first]
    while waiting:
        offset = waiting.pop()
        if offset == 0:
            continue
        if offset in seen:
            raise ValueError("directories that form a circle")
        if offset >= end:
            raise EOFError("a directory lies beyond its end")
        seen.add(offset)
        if len(seen) > limits.MAX_TIFF_DIRECTORIES:
            too_many(len(seen), "or more TIFF directories", limits.MAX_TIFF_DIRECTORIES)
        waiting.extend(_following(file, layout, offset))


def _read_header(file: BinaryIO) -> tuple[_Layout, int]:
    """Return the layout and the offset of the first directory."""
    file.seek(0)
    order = {b"II": "<", b"MM": ">"}.get(file.read(2))
    if order is None:
        raise ValueError("no byte order")
    layout = _Layout(order, "I", "H")
    (version,) = layout.read(file, "H")
    if version == _BIG:
        layout = _Layout(order, "Q", "Q")
        layout.read(file, "HH")  # Size of an offset, and zero.
    elif version != _CLASSIC:
        raise ValueError(f"TIFF version {version}")
    return layout, layout.read(file, layout.offset)[0]


def _following(file: BinaryIO, layout: _Layout, offset: int) -> Iterator[int]:
    """Check a directory and yield the offsets of the directories that it names."""
    fields = _entries(file, layout, offset)
    (following,) = layout.read(file, layout.offset)
    yield following
    for tag, kind, count, place, value in fields:
        size = count * _SIZES.get(kind, 1)
        if tag in _SEGMENT_TAGS:
            if count > limits.MAX_TIFF_SEGMENTS:
                too_many(count, "strips or tiles", limits.MAX_TIFF_SEGMENTS)
        elif size > limits.MAX_TIFF_VALUE_BYTES:
            too_many(size, "bytes in a TIFF tag", limits.MAX_TIFF_VALUE_BYTES)
        if tag in _DIRECTORY_TAGS:
            yield from _offsets(file, layout, kind, count, place if size <= struct.calcsize(layout.offset) else value)


def _entries(file: BinaryIO, layout: _Layout, offset: int) -> list[tuple[int, ...]]:
    """Return tag, type, number of values, place of the value and value of each entry; the file is left behind them."""
    file.seek(offset)
    (entries,) = layout.read(file, layout.count)
    if entries > limits.MAX_TIFF_TAGS:
        too_many(entries, "entries in a TIFF directory", limits.MAX_TIFF_TAGS)
    return [
        (*layout.read(file, f"HH{layout.offset}"), file.tell(), *layout.read(file, layout.offset))
        for _ in range(entries)
    ]


def _offsets(file: BinaryIO, layout: _Layout, kind: int, count: int, place: int) -> tuple[int, ...]:
    """Return the offsets of directories in the value of a tag."""
    if count > limits.MAX_TIFF_DIRECTORIES:
        too_many(count, "TIFF directories", limits.MAX_TIFF_DIRECTORIES)
    file.seek(place)
    return layout.read(file, f"{count}{'Q' if _SIZES.get(kind) == 8 else 'I'}")
