"""Reader of organised point clouds in PLY files: text, or binary in either byte order.

The project has its own parser because no maintained package with a permissive licence works without a compiler
(plyfile is under the GPL).

PLY has no standard field for rows and columns. The reader supports these conventions of exporters:

* `obj_info num_cols N` and `obj_info num_rows N`, with or without an element `range_grid` that lists the vertex in
  each cell of the grid (the Stanford scans; PCL with `use_camera` off);
* an element `camera` with `viewportx` and `viewporty` after the vertices (PCL by default);
* `obj_info … (Width = N; Height = N; …)` (Photoneo, EpicEye), or an element `phoxi_frame_params` with
  `frame_width` and `frame_height` (Photoneo);
* `comment width N` and `comment height N`, with or without `=` or `:`.

The first of these that is present decides. Comments come last, because people write anything into them: a comment
counts only if its numbers fit the number of points. Keywords may be in capitals.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._cloud import check_grid, finish_cloud, unorganised
from cmdiad_runtime.readers._files import FilePath, check_point_count, decoding, open_input
from cmdiad_runtime.readers._text import (
    check_fields,
    check_left,
    header_lines,
    read_bytes,
    read_records,
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
_WIDTH = re.compile(r"\b(?:num_cols|width)\b ?[=:]? ?([0-9]{1,9})(?![0-9.])", re.IGNORECASE)
_HEIGHT = re.compile(r"\b(?:num_rows|height)\b ?[=:]? ?([0-9]{1,9})(?![0-9.])", re.IGNORECASE)
_NUM_COLUMNS = re.compile(r"num_cols ?[=:]? ?([0-9]{1,9})", re.IGNORECASE)
_NUM_ROWS = re.compile(r"num_rows ?[=:]? ?([0-9]{1,9})", re.IGNORECASE)
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
        comments: Texts of the lines `comment`.
        infos: Texts of the lines `obj_info`.
        elements: Elements by name, in the order of the file.
    """

    byte_order: str
    comments: list[str]
    infos: list[str]
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
            from the number of points; x, y, z are missing or whole numbers; the cloud is beyond a limit (see
            `limits`), or in millimetres.
    """
    with open_input(path, expected=_EXPECTED) as file, decoding(path, expected=_EXPECTED):
        if file.readline(64).strip().lower() != b"ply":
            _refuse(path, "a file that is not a PLY", "save the cloud as PLY")
        header = _read_header(file)
        _check_vertices(path, header)
        size = _size_in_fields(path, header)
        tables = _read_tables(path, file, header, _needed(header, size))
        height, width = size or _size_in_tables(path, header, tables) or _size_in_notes(path, header)
        return finish_cloud(path, _on_grid(tables).reshape(height, width, 3))


def _read_header(file: BinaryIO) -> _Header:
    byte_order = None
    comments: list[str] = []
    infos: list[str] = []
    elements: list[_Element] = []
    for line in header_lines(file):
        keyword, _, text = line.partition(" ")
        match [keyword.lower(), *text.split(" ")]:
            case ["end_header", ""]:
                break
            case ["format", name, "1.0"] if name.lower() in _BYTE_ORDERS:
                byte_order = _BYTE_ORDERS[name.lower()]
            case ["comment", *_]:
                comments.append(text)
            case ["obj_info", *_]:
                infos.append(text)
            case ["element", name, count]:
                elements.append(_Element(name.lower(), whole_number(count), {}, {}))
                check_fields(len(elements), "elements")
            case ["property", *words] if elements:
                _add_property(elements[-1], words)
            case _:
                raise ValueError(f"{line[:40]!r} in its header")
    if byte_order is None or len({element.name for element in elements}) < len(elements):
        raise ValueError("no format or a doubled element in its header")
    return _Header(byte_order, comments, infos, {element.name: element for element in elements})


def _add_property(element: _Element, words: list[str]) -> None:
    """Add a property from the words after the keyword: `TYPE NAME`, or `list TYPE TYPE NAME`."""
    *kinds, name = words
    name = name.lower() if name in ("X", "Y", "Z") else name
    match [kind.lower() for kind in kinds]:
        case ["list", length, kind] if {length, kind} <= _TYPES.keys():
            element.lists[name] = _TYPES[length]
        case [kind] if kind in _TYPES and name not in element.types:
            pass
        case _:
            raise ValueError(f"{'property ' + ' '.join(words)[:40]!r} in its header")
    element.types[name] = _TYPES[kind]
    check_fields(len(element.types), "properties")


def _check_vertices(path: FilePath, header: _Header) -> None:
    """Check the vertices from the header, before they are read."""
    vertex = header.elements.get("vertex")
    types = [vertex.types.get(name) for name in "xyz"] if vertex else [None]
    if vertex is None or None in types:
        _refuse(path, "no vertices with x, y and z", "save the cloud with its coordinates")
    if vertex.lists or not {"f4", "f8"}.issuperset(types):
        _refuse(path, "vertices with lists or whole numbers", "save x, y and z as float, in metres")


def _size_in_fields(path: FilePath, header: _Header) -> tuple[int, int] | None:
    """Return the checked height and width of the grid from `num_rows` and `num_cols`, or None without these."""
    rows, columns = _numbers(_NUM_ROWS, header.infos), _numbers(_NUM_COLUMNS, header.infos)
    if len(rows) > 1 or len(columns) > 1:
        raise ValueError("two sizes of the grid in its header")
    if not rows or not columns:
        check_point_count(path, header.elements["vertex"].count)
        check_point_count(path, _cells(header))
        return None
    (height,), (width,) = rows, columns
    check_grid(path, height, width, _cells(header), expected=_EXPECTED)
    return height, width


def _size_in_tables(path: FilePath, header: _Header, tables: dict[str, _Table]) -> tuple[int, int] | None:
    """Return the checked height and width of the grid from an element of a camera, or None without one."""
    for element, names in _SIZE_ELEMENTS.items():
        if element in tables and set(names) <= set(tables[element]):
            height, width = (int(tables[element][name][0]) for name in names)
            check_grid(path, height, width, _cells(header), expected=_EXPECTED)
            return height, width
    return None


def _size_in_notes(path: FilePath, header: _Header) -> tuple[int, int]:
    """Return the height and width of the grid from `obj_info`, else from comments.

    Raises:
        InputError: No note or two notes have a size that fits the number of points.
    """
    cells = _cells(header)
    for notes in (header.infos, header.comments):
        pairs = [(h, w) for h in _numbers(_HEIGHT, notes) for w in _numbers(_WIDTH, notes)]
        fitting = [(h, w) for h, w in pairs if h * w == cells and min(h, w) > 1]
        if len(fitting) > 1:
            raise ValueError("two sizes of the grid in its header")
        if fitting:
            return fitting[0]
        if len(pairs) == 1 and notes is header.infos:
            check_grid(path, *pairs[0], cells, expected=_EXPECTED)
    what = f"{cells} points, and no rows and columns in the header"
    otherwise = (
        "; if the software saves an organised cloud without its size, add obj_info num_cols N and obj_info num_rows N"
    )
    raise unorganised(path, what, expected=_EXPECTED, otherwise=otherwise)


def _numbers(pattern: re.Pattern[str], notes: Iterable[str]) -> list[int]:
    """Return the different numbers that match a pattern, at most as many as a header may have fields."""
    numbers = {int(match[1]) for note in notes for match in pattern.finditer(note)}
    check_fields(len(numbers), "sizes of the grid")
    return sorted(numbers)


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
        elif element.name == "vertex":
            tables[element.name] = _read_vertices(file, element, header.byte_order)
        else:
            tables[element.name] = _read_first(file, element, header.byte_order)
    return tables


def _read_vertices(file: BinaryIO, element: _Element, byte_order: str) -> _Table:
    """Read x, y and z of all vertices."""
    if element.count == 0:
        return {name: np.zeros(0, dtype=np.float32) for name in "xyz"}
    if not byte_order:
        names = list(element.types)
        rows = read_text_table(file, element.count, len(names), [names.index(name) for name in "xyz"])
        return dict(zip("xyz", rows.T, strict=True))
    return dict(zip("xyz", read_records(file, element.count, _record(element, byte_order), "xyz"), strict=True))


def _read_first(file: BinaryIO, element: _Element, byte_order: str) -> _Table:
    """Read the first item of an element without lists, and skip the others."""
    if not byte_order:
        (row,) = read_text_table(file, 1, len(element.types), range(len(element.types)))
        check_left(file, 2 * (element.count - 1) * len(element.types) - 1)
        for _ in range(element.count - 1):
            file.readline()
        return {name: value[None] for name, value in zip(element.types, row, strict=True)}
    dtype = _record(element, byte_order)
    check_left(file, element.count * dtype.itemsize)
    records = np.frombuffer(read_bytes(file, dtype.itemsize), dtype)
    file.seek((element.count - 1) * dtype.itemsize, 1)
    return {name: records[name] for name in element.types}


def _record(element: _Element, byte_order: str) -> np.dtype[Any]:
    """Return the dtype of an item of an element without lists."""
    return np.dtype([(name, byte_order + kind) for name, kind in element.types.items()])


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
    full = array("q")  # Cells with a vertex.
    at = array("q")  # Positions of their vertex indices in the data.
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
    cells[np.array(full, dtype=np.int64)] = vertices
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
    raise InputError(path, found=problem, expected=_EXPECTED, action=action, reason="unsupported")
