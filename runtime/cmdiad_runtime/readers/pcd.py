"""Reader of organised point clouds in PCD files, the format of the Point Cloud Library: text, binary, compressed.

The project has its own parser because existing packages depend on Open3D, compile LZF, or are not maintained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._cloud import check_grid, finish_cloud, unorganised
from cmdiad_runtime.readers._files import FilePath, decoding, open_input, too_many
from cmdiad_runtime.readers._text import (
    check_fields,
    header_lines,
    read_bytes,
    read_records,
    read_text_table,
    whole_number,
)
from cmdiad_runtime.sample import XyzImage

_EXPECTED = "an organised point cloud: a PCD file of float x y z in metres with a HEIGHT above 1"
_KEYS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_OTHER_KEYS = {"COLUMNS": "FIELDS"}
"""Names of keys in earlier versions of the format."""
_KINDS = {"F": "f", "I": "i", "U": "u"}
_LZF_LARGEST = 88
"""Largest ratio of LZF compression: a reference of three bytes expands to at most 264 bytes."""

_Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Layout:
    """Layout of the points in the file.

    Attributes:
        height: Rows of the grid.
        width: Columns of the grid.
        point: NumPy dtype of one point; the name of a field is its position.
        columns: Numbers that each field takes in text.
        xyz: Positions of the fields x, y and z.
        data: Encoding: `ascii`, `binary` or `binary_compressed`.
    """

    height: int
    width: int
    point: np.dtype[Any]
    columns: tuple[int, ...]
    xyz: tuple[int, ...]
    data: str

    @property
    def count(self) -> int:
        """Return the number of points, including missing points."""
        return self.height * self.width


def read_pcd(path: FilePath) -> XyzImage:
    """Read an organised point cloud from a PCD file. The viewpoint and all fields except x, y, z are ignored.

    Args:
        path: PCD file of version 0.7 (`DATA ascii`, `binary` or `binary_compressed`), little-endian, with fields
            x, y, z of type F. Keys and names may be in capitals.

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where the sensor saw nothing.

    Raises:
        InputError: The file is missing, empty, damaged or not a PCD; its HEIGHT is 1; x, y, z are missing or whole
            numbers; the cloud is beyond a limit (see `limits`), or in millimetres.
    """
    readers = {"ascii": _read_text, "binary": _read_binary, "binary_compressed": _read_compressed}
    with open_input(path, expected=_EXPECTED) as file, decoding(path, expected=_EXPECTED):
        layout = _layout(path, _read_header(path, file))
        if layout.data not in readers:
            raise ValueError(f"DATA {layout.data[:20]}")
        points = readers[layout.data](file, layout)  # [points, 3]
        return finish_cloud(path, points.reshape(layout.height, layout.width, 3))


def _read_header(path: FilePath, file: BinaryIO) -> dict[str, list[str]]:
    """Return the words after each key of the header."""
    header: dict[str, list[str]] = {}
    for line in header_lines(file):
        if not line or line.startswith("#"):
            continue
        key, *words = line.split()
        key = _OTHER_KEYS.get(key.upper(), key.upper())
        if key not in _KEYS and not header:
            _refuse(path, "a file that is not a PCD", "save the cloud as PCD")
        if key not in _KEYS or key in header:
            raise ValueError(f"{line[:40]!r} in its header")
        header[key] = words
        if key == "DATA":
            break
    missing = [key for key in _KEYS if key not in header and key not in ("VERSION", "COUNT", "VIEWPOINT")]
    if missing:
        raise ValueError(f"no {', '.join(missing)} in its header")
    return header


def _layout(path: FilePath, header: dict[str, list[str]]) -> _Layout:
    names = [name.lower() for name in header["FIELDS"]]
    check_fields(len(names), "fields")
    counts = [whole_number(word) for word in header.get("COUNT", ["1"] * len(names))]
    types = [name.upper() for name in header["TYPE"]]
    if not set(types) <= _KINDS.keys():
        raise ValueError(f"TYPE {' '.join(types)[:40]}")
    kinds = [_KINDS[kind] + size for kind, size in zip(types, header["SIZE"], strict=True)]
    if sum(counts) > limits.MAX_POINT_BYTES:
        too_many(sum(counts), "numbers per point", limits.MAX_POINT_BYTES)
    fields = [(f"{i}", kind, (count,)) for i, (kind, count) in enumerate(zip(kinds, counts, strict=True))]
    if len(fields) != len(names) or 0 in counts:
        raise ValueError("FIELDS, SIZE, TYPE and COUNT that do not match")
    if not {"x", "y", "z"} <= set(names):
        _refuse(path, f"fields {' '.join(names)[:80]}", "save x, y and z")
    xyz = tuple(names.index(name) for name in "xyz")
    if any(kinds[i] not in ("f4", "f8") or counts[i] != 1 for i in xyz):
        _refuse(path, "x, y and z that are not single floats", "save x, y and z as TYPE F and SIZE 4, in metres")
    height, width, points = (whole_number(" ".join(header[key])) for key in ("HEIGHT", "WIDTH", "POINTS"))
    if height == 1:
        raise unorganised(path, f"HEIGHT 1, {points} points", expected=_EXPECTED)
    check_grid(path, height, width, points, expected=_EXPECTED)
    point = np.dtype(fields).newbyteorder("<")
    return _Layout(height, width, point, tuple(counts), xyz, " ".join(header["DATA"]).lower())


def _read_text(file: BinaryIO, layout: _Layout) -> _Floats:
    starts = np.cumsum([0, *layout.columns]).tolist()
    return read_text_table(file, layout.count, starts[-1], [starts[i] for i in layout.xyz])


def _read_binary(file: BinaryIO, layout: _Layout) -> _Floats:
    return np.stack(read_records(file, layout.count, layout.point, [f"{i}" for i in layout.xyz]), axis=1)


def _read_compressed(file: BinaryIO, layout: _Layout) -> _Floats:
    """Read compressed data: all values of the first field, then all of the second, and so on."""
    packed, unpacked = (int.from_bytes(read_bytes(file, 4), "little") for _ in range(2))
    if unpacked != layout.count * layout.point.itemsize or unpacked > _LZF_LARGEST * packed:
        raise ValueError(f"{packed} bytes that cannot expand to {unpacked}")
    if unpacked > limits.MAX_UNPACKED_BYTES:
        too_many(unpacked, "bytes of unpacked data", limits.MAX_UNPACKED_BYTES)
    data = decompress_lzf(read_bytes(file, packed), unpacked)
    fields = [layout.point.fields[f"{i}"] for i in layout.xyz]  # type: ignore[index]  # the dtype has fields
    return np.stack([np.frombuffer(data, f[0].base, layout.count, layout.count * f[1]) for f in fields], axis=1)


def decompress_lzf(data: bytes, size: int) -> bytes:
    """Decompress LZF data (the format of Marc Lehmann's LibLZF) as in PCD files.

    A control byte c below 32 is followed by c + 1 literal bytes. Any other control byte is a back reference: its upper
    three bits are the length minus 2 (for 7, the next byte is added), its lower five bits and the next byte are the
    distance minus 1. A reference may overlap the bytes that it writes.

    Args:
        data: Compressed data.
        size: Number of decompressed bytes.

    Returns:
        The decompressed data, `size` bytes.

    Raises:
        ValueError: The data are damaged.
    """
    out = bytearray()
    position = 0
    try:
        while position < len(data) and len(out) < size:
            control = data[position]
            position += 1
            if control < 32:
                out += data[position : position + control + 1]
                position += control + 1
                continue
            length = (control >> 5) + 2
            if length == 9:
                length += data[position]
                position += 1
            distance = ((control & 31) << 8) + data[position] + 1
            position += 1
            _repeat(out, distance, length)
    except IndexError as error:
        raise ValueError("compressed data that end early") from error
    if len(out) != size or position != len(data):
        raise ValueError(f"compressed data that expand to {len(out)} bytes, not {size}")
    return bytes(out)


def _repeat(out: bytearray, distance: int, length: int) -> None:
    """Append `length` bytes that start `distance` before the end; they may include bytes that are being written."""
    start = len(out) - distance
    if start < 0:
        raise ValueError("compressed data with a reference to before the beginning")
    pattern = out[start : start + length]
    out += (pattern * (length // len(pattern) + 1))[:length]


def _refuse(path: FilePath, problem: str, action: str) -> NoReturn:
    raise InputError(path, found=problem, expected=_EXPECTED, action=action, reason="unsupported")
