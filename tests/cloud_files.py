"""Tiny writers of the formats that clouds are read from, and what every refusal looks like."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cmdiad_runtime.errors import InputError

RNG = np.random.default_rng(7)
HEIGHT, WIDTH = 12, 17
POINTS = RNG.uniform(0.1, 0.6, (HEIGHT, WIDTH, 3)).astype(np.float32)
XYZ = (("x", "f4"), ("y", "f4"), ("z", "f4"))
INTRINSICS = {"fx": 40.5, "fy": 41.25, "cx": 8.25, "cy": 5.75, "depth_scale": 0.001}


def refusal(read: Any, path: Path, *, subject: Path | None = None, **options: Any) -> str:
    """The message of the InputError that reading must raise: one line, with file and action."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{subject or path}: found ")
    assert "\n" not in message and message.count(": found ") == 1
    action = caught.value.action[:1].upper() + caught.value.action[1:]
    assert message.endswith(f". {action}.") and len(caught.value.action) > 5
    return message


def records(points: np.ndarray, fields: Any = XYZ) -> np.ndarray:
    """The points `[h, w, 3]` as a table `[h*w]`; fields besides x, y, z hold other numbers."""
    table = np.zeros(points.shape[0] * points.shape[1], dtype=list(fields))
    for name in table.dtype.names:
        if name in ("x", "y", "z"):
            table[name] = points[..., "xyz".index(name)].ravel()
        else:
            table[name] = (np.arange(table[name].size) % 251).reshape(table[name].shape)
    return table


def words(table: np.ndarray) -> bytes:
    """A table as text, each number as exact as it is."""
    rows = ([str(value) for column in row for value in np.atleast_1d(column)] for row in table.tolist())
    return "".join(" ".join(row) + "\n" for row in rows).encode()


PLY_NAMES = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort", "i4": "int", "u4": "uint32", "i2": "int16"}
PLY_ORDERS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}
GRID_NOTES = (f"obj_info num_cols {WIDTH}", f"obj_info num_rows {HEIGHT}")


def ply(
    elements: dict[str, Any],
    *,
    form: str = "binary_little_endian",
    notes: tuple[str, ...] = GRID_NOTES,
    end: str = "\n",
) -> bytes:
    """A PLY file: elements are tables, or lists of lists (of `int`, counted by `uchar`)."""
    header = ["ply", f"format {form} 1.0", *notes]
    body = b""
    order = PLY_ORDERS[form]
    for name, rows in elements.items():
        header.append(f"element {name} {len(rows)}")
        if isinstance(rows, list):
            header.append("property list uchar int vertex_indices")
            lines = [[len(row), *row] for row in rows]
            if form == "ascii":
                body += "".join(" ".join(map(str, line)) + "\n" for line in lines).encode()
            else:
                body += b"".join(struct.pack(f"{order}B{len(line) - 1}i", *line) for line in lines)
            continue
        dtype = rows.dtype
        header += [f"property {PLY_NAMES[dtype[field].str[1:]]} {field}" for field in dtype.names]
        body += words(rows) if form == "ascii" else rows.astype(dtype.newbyteorder(order)).tobytes()
    return "".join(line + end for line in [*header, "end_header"]).encode() + body


def pcd(points: np.ndarray, *, data: str = "binary", fields: Any = XYZ, **header: Any) -> bytes:
    """A PCD file; `header` replaces lines."""
    table = records(points, fields)
    dtype = table.dtype
    bases = [dtype[name].base for name in dtype.names]
    counts = [int(np.prod(dtype[name].shape, dtype=int)) for name in dtype.names]
    lines = {
        "VERSION": ".7",
        "FIELDS": " ".join(dtype.names),
        "SIZE": " ".join(str(base.itemsize) for base in bases),
        "TYPE": " ".join(base.kind.upper() for base in bases),
        "COUNT": " ".join(map(str, counts)),
        "WIDTH": points.shape[1],
        "HEIGHT": points.shape[0],
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": points.shape[0] * points.shape[1],
        "DATA": data,
        **header,
    }
    if data == "ascii":
        body = words(table)
    elif data == "binary":
        body = table.tobytes()
    else:
        plain = b"".join(np.ascontiguousarray(table[name]).tobytes() for name in dtype.names)
        packed = lzf(plain)
        body = struct.pack("<II", len(packed), len(plain)) + packed
    head = "".join(f"{key} {value}\n" for key, value in lines.items() if value is not None)
    return f"# .PCD v0.7 - Point Cloud Data file format\n{head}".encode() + body


def lzf(data: bytes) -> bytes:
    """Compress greedily, with references up to the longest and farthest that the format has."""
    out = bytearray()
    literals = bytearray()
    seen: dict[bytes, int] = {}
    position = 0
    while position < len(data):
        key = data[position : position + 3]
        before = seen.get(key, -1)
        seen[key] = position
        if len(key) < 3 or before < 0 or position - before > 8192:
            literals.append(data[position])
            position += 1
            continue
        length = 3
        while length < 264 and position + length < len(data) and data[before + length] == data[position + length]:
            length += 1
        out += _literal_runs(literals)
        literals.clear()
        distance = position - before - 1
        high = min(length - 2, 7) << 5 | distance >> 8
        out += bytes([high, *([length - 9] if length >= 9 else []), distance & 255])
        position += length
    return bytes(out + _literal_runs(literals))


def _literal_runs(literals: bytearray) -> bytes:
    runs = [literals[at : at + 32] for at in range(0, len(literals), 32)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def depth_of(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Depth in millimetres, uint16 `[h, w]`, two pixels of it missing."""
    depth = RNG.integers(300, 900, (height, width), dtype=np.uint16)
    depth[0, 0] = depth[3, 5] = 0
    return depth


def write_intrinsics(path: Path, **changes: Any) -> Path:
    fields = {**INTRINSICS, **changes}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return path


def write_samples(folder: Path) -> dict[str, Path]:
    """A readable file of every kind, with POINTS or a depth image in it."""
    write_intrinsics(folder / "intrinsics.json")
    table = records(POINTS)
    cells = [[i] for i in range(len(table))]
    writers: dict[str, Callable[[Path], Any]] = {
        "cloud.tiff": lambda p: tifffile.imwrite(p, POINTS, photometric="rgb"),
        "deflated.tif": lambda p: tifffile.imwrite(p, POINTS, photometric="rgb", compression="zlib"),
        "depth.tif": lambda p: tifffile.imwrite(p, depth_of()),
        "depth.png": lambda p: Image.fromarray(depth_of()).save(p),
        "text.ply": lambda p: p.write_bytes(ply({"vertex": table}, form="ascii")),
        "little.ply": lambda p: p.write_bytes(ply({"vertex": table})),
        "grid.ply": lambda p: p.write_bytes(ply({"vertex": table, "range_grid": cells}, form="binary_big_endian")),
        "text_grid.ply": lambda p: p.write_bytes(ply({"vertex": table, "range_grid": cells}, form="ascii")),
        "text.pcd": lambda p: p.write_bytes(pcd(POINTS, data="ascii")),
        "binary.pcd": lambda p: p.write_bytes(pcd(POINTS)),
        "packed.pcd": lambda p: p.write_bytes(pcd(np.round(POINTS, 1), data="binary_compressed")),
        "cloud.npz": lambda p: np.savez(p, xyz=POINTS),
        "packed.npz": lambda p: np.savez_compressed(p, xyz=POINTS),
        "depth.npz": lambda p: np.savez(p, depth=depth_of(), intrinsics=[40.0, 40.0, 8.0, 5.5], depth_scale=0.001),
    }
    for name, write in writers.items():
        write(folder / name)
    return {name: folder / name for name in writers}
