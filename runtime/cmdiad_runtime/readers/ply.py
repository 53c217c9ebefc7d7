"""Reader of organised point clouds in PLY files: text, or binary in either byte order.

The project has its own parser because no maintained package with a permissive licence works without a compiler
(plyfile is under the GPL).

PLY has no standard field for rows and columns. The reader supports these conventions of exporters:

* `obj_info num_cols N` and `num_rows N`, with or without an element `range_grid` that lists the vertex in each cell
  of the grid (the Stanford scans; PCL with `use_camera` off);
* an element `camera` with `viewportx` and `viewporty` after the vertices (PCL by default);
* `obj_info … (Width = N; Height = N; …)` (Photoneo, EpicEye), or an element `phoxi_frame_params` with
  `frame_width` and `frame_height` (Photoneo);
* `comment width N` and `comment height N`, with or without `=` or `:`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._cloud import check_grid, finish_cloud, unorganised
from cmdiad_runtime.readers._files import (
    FilePath,
    check_left,
    check_size,
    decoding,
    header_lines,
    open_input,
    read_bytes,
    read_text_table,
    whole_number,
)
from cmdiad_runtime.sample import XyzImage

_EXPECTED = "an organised point cloud: a PLY file of float x y z in metres with the size of its grid"
_BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float": "f4",
    "double": "f8",
    "float32": "f4",
    "float64": "f8",
}
"""NumPy name of each type."""
_COLUMNS = re.compile(r"\b(?:num_cols|width)\b\s*[=:]?\s*([0-9]{1,9})(?![0-9.])", re.IGNORECASE)
_ROWS = re.compile(r"\b(?:num_rows|height)\b\s*[=:]?\s*([0-9]{1,9})(?![0-9.])", re.IGNORECASE)
_SIZE_ELEMENTS = {"camera": ("viewporty", "viewportx"), "phoxi_frame_params": ("frame_height", "frame_width")}
"""Elements with the height and width of the grid, and the names of these properties."""

_Table = dict[str, npt.NDArray[Any]]
"""Values of an element by property; each array is `[count]`."""


@dataclass(frozen=True)
class _Element:
    """One element of the header.

    Attributes:
        name: Name, for example `vertex`.
        count: Number of items.
        types: NumPy type of each property, by name.
        lists: NumPy type of the length of each list property, by name.
    """

    name: str
    count: int
    types: dict[str, str]
    lists: dict[str, str]


@dataclass(frozen=True)
class _Header:
    """Parsed header.

    Attributes:
        byte_order: "<" or ">"; "" for text.
        notes: Comments and `obj_info` lines, joined.
        elements: Elements by name, in the order of the file.
    """

    byte_order: str
    notes: str
    elements: dict[str, _Element]


def read_ply(path: FilePath) -> XyzImage:
    """Read an organised point cloud from a PLY file. All properties except x, y, z are ignored.

    Args:
        path: PLY file, text or binary, with the size of the grid (see the docstring of this module). The element
            `vertex` has float or double x, y, z, in rows from the top.

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where the sensor saw nothing.

    Raises:
        InputError: The file is missing, empty, damaged or not a PLY; the size of the grid is missing or differs
            from the number of points; x, y, z are missing or whole numbers; the cloud has more than 100 million
            points, or is in millimetres.
    """
    with open_input(path, expected=_EXPECTED) as file, decoding(path, expected=_EXPECTED):
        if file.readline(8).rstrip(b"\r\n") != b"ply":
            _refuse(path, "a file that is not a PLY", "save the cloud as PLY")
        header = _read_header(file)
        _check_vertices(path, header)
        size = _size_in_notes(path, header)
        tables = _read_tables(path, file, header, _needed(header, size))
        height, width = size or _size_in_tables(path, header, tables)
        return finish_cloud(path, _on_grid(tables).reshape(height, width, 3))


def _read_header(file: BinaryIO) -> _Header:
    byte_order = None
    notes: list[str] = []
    elements: list[_Element] = []
    for line in header_lines(file):
        match line.split():
            case ["end_header"]:
                break
            case ["format", name, "1.0"] if name in _BYTE_ORDERS:
                byte_order = _BYTE_ORDERS[name]
            case ["comment" | "obj_info", *_]:
                notes.append(line)
            case ["element", name, count]:
                elements.append(_Element(name, whole_number(count), {}, {}))
            case ["property", "list", length, kind, name] if elements and {length, kind} <= _TYPES.keys():
                elements[-1].types[name] = _TYPES[kind]
                elements[-1].lists[name] = _TYPES[length]
            case ["property", kind, name] if elements and kind in _TYPES and name not in elements[-1].types:
                elements[-1].types[name] = _TYPES[kind]
            case _:
                raise ValueError(f"{line[:40]!r} in its header")
    if byte_order is None or len({element.name for element in elements}) < len(elements):
        raise ValueError("no format or a doubled element in its header")
    return _Header(byte_order, "; ".join(notes), {element.name: element for element in elements})


def _check_vertices(path: FilePath, header: _Header) -> None:
    """Check the vertices from the header, before they are read."""
    vertex = header.elements.get("vertex")
    types = [vertex.types.get(name) for name in "xyz"] if vertex else [None]
    if vertex is None or None in types:
        _refuse(path, "no vertices with x, y and z", "save the cloud with its coordinates")
    if vertex.lists or not {"f4", "f8"}.issuperset(types):
        _refuse(path, "vertices with lists or whole numbers", "save x, y and z as float, in metres")


def _size_in_notes(path: FilePath, header: _Header) -> tuple[int, int] | None:
    """Return the checked height and width of the grid from comments and `obj_info`, or None without these."""
    rows, columns = _ROWS.search(header.notes), _COLUMNS.search(header.notes)
    if not rows or not columns:
        check_size(path, 1, header.elements["vertex"].count)
        return None
    height, width = int(rows[1]), int(columns[1])
    check_grid(path, height, width, _cells(header), expected=_EXPECTED)
    return height, width


def _size_in_tables(path: FilePath, header: _Header, tables: dict[str, _Table]) -> tuple[int, int]:
    for element, names in _SIZE_ELEMENTS.items():
        if element in tables and set(names) <= set(tables[element]):
            height, width = (int(tables[element][name][0]) for name in names)
            check_grid(path, height, width, _cells(header), expected=_EXPECTED)
            return height, width
    what = f"{header.elements['vertex'].count} points, and no rows and columns in the header"
    otherwise = (
        "; if the software saves an organised cloud without its size, add obj_info num_cols N and obj_info num_rows N"
    )
    raise unorganised(path, what, expected=_EXPECTED, otherwise=otherwise)


def _cells(header: _Header) -> int:
    """Return the number of points of the grid, including missing points."""
    return header.elements["range_grid" if "range_grid" in header.elements else "vertex"].count


def _needed(header: _Header, size: tuple[int, int] | None) -> list[_Element]:
    """Return the elements to read: all up to the last relevant one."""
    relevant = {"vertex", "range_grid"} if size else {"vertex", "range_grid", *_SIZE_ELEMENTS}
    elements = list(header.elements.values())
    last = max(index for index, element in enumerate(elements) if element.name in relevant)
    return elements[: last + 1]


def _read_tables(path: FilePath, file: BinaryIO, header: _Header, elements: list[_Element]) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    for element in elements:
        if element.count == 0 and element.name != "vertex":
            continue
        if element.name == "range_grid":
            tables[element.name] = {"vertex": _read_range_grid(file, element, header)}
        elif element.lists:
            _refuse(path, f"an element {element.name} of lists", "save the points only, without faces")
        else:
            tables[element.name] = _read_table(file, element, header.byte_order)
    return tables


def _read_table(file: BinaryIO, element: _Element, byte_order: str) -> _Table:
    """Read the values of an element without lists."""
    if element.count == 0:
        return {name: np.zeros(0, dtype=np.float32) for name in element.types}
    if not byte_order:
        rows = read_text_table(file, element.count, len(element.types))
        return dict(zip(element.types, rows.T, strict=True))
    dtype = np.dtype([(name, byte_order + kind) for name, kind in element.types.items()])
    records = np.frombuffer(read_bytes(file, element.count * dtype.itemsize), dtype)
    return {name: records[name] for name in element.types}


def _read_range_grid(file: BinaryIO, element: _Element, header: _Header) -> npt.NDArray[np.int64]:
    """Read the vertex index of each cell, int64 `[count]`, -1 for an empty cell.

    Each cell is a list with no index or one index.
    """
    (kind,), (length,) = element.types.values(), element.lists.values()
    if length not in ("i1", "u1") or kind[0] == "f":
        raise ValueError("a range_grid whose lists are not of whole numbers")
    if not header.byte_order:
        cells = _text_cells(file, element.count)
    else:
        cells = _binary_cells(file, element.count, np.dtype(header.byte_order + kind))
    if cells.max() >= header.elements["vertex"].count:
        raise ValueError("a range_grid with vertices that do not exist")
    return cells


def _text_cells(file: BinaryIO, count: int) -> npt.NDArray[np.int64]:
    check_left(file, 2 * count - 1)
    cells = np.full(count, -1, dtype=np.int64)
    index = -1
    for index, line in enumerate(islice(file, count)):
        words = line.decode("latin-1").split()
        if len(words) == 2 and words[0] == "1":
            cells[index] = whole_number(words[1])
        elif words != ["0"]:
            raise ValueError("a range_grid with other than zero or one vertex per cell")
    if index + 1 != count:
        raise EOFError(f"{index + 1} cells, not {count}")
    return cells


def _binary_cells(file: BinaryIO, count: int, dtype: np.dtype[Any]) -> npt.NDArray[np.int64]:
    check_left(file, count)
    start = file.tell()
    data = file.read(count * (1 + dtype.itemsize))  # This is the largest size; empty cells take less.
    step = 1 + dtype.itemsize
    position = 0
    full: list[int] = []  # Cells with a vertex.
    at: list[int] = []  # Positions of their vertex indices in the data.
    for cell in range(count):
        if data[position] == 1:
            full.append(cell)
            at.append(position + 1)
            position += step
        elif data[position] == 0:
            position += 1
        else:
            raise ValueError("a range_grid with more than one vertex per cell")
    file.seek(start + position)
    offsets = np.array(at, dtype=np.int64)[:, None] + np.arange(dtype.itemsize)  # [full, bytes]
    vertices = np.frombuffer(data, np.uint8)[offsets].view(dtype)[:, 0]
    if vertices.size and vertices.min() < 0:
        raise ValueError("a range_grid with negative vertices")
    cells = np.full(count, -1, dtype=np.int64)
    cells[full] = vertices
    return cells


def _on_grid(tables: dict[str, _Table]) -> npt.NDArray[np.floating[Any]]:
    """Return the points of the whole grid, `[cells, 3]`, zeros in cells without a vertex."""
    points = np.stack([tables["vertex"][name] for name in "xyz"], axis=-1)  # [vertices, 3]
    if "range_grid" not in tables:
        return points
    cells = tables["range_grid"]["vertex"]
    grid = np.zeros((len(cells), 3), dtype=points.dtype)
    grid[cells >= 0] = points[cells[cells >= 0]]
    return grid


def _refuse(path: FilePath, problem: str, action: str) -> NoReturn:
    raise InputError(path, found=problem, expected=_EXPECTED, action=action)
