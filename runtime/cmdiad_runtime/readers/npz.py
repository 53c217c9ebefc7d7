"""Reader of organised point clouds, and of depth images with their intrinsics, in NPZ files of NumPy."""

from __future__ import annotations

import io
import zipfile
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._cloud import finish_cloud
from cmdiad_runtime.readers._files import FilePath, bounded, check_points, decoding, open_input, too_many
from cmdiad_runtime.readers.depth import DEPTH_TYPES, Intrinsics, depth_scale_of, finish_depth
from cmdiad_runtime.sample import XyzImage

_EXPECTED = (
    "an NPZ file with xyz [h, w, 3] in metres, or depth [h, w] and intrinsics [fx, fy, cx, cy]"
    " (and depth_scale, the metres of one unit)"
)
_ZIP = b"PK\x03\x04"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compressions that NumPy writes."""
_CLOUD_TYPES = (np.dtype(np.float32), np.dtype(np.float64))
_NUMBERS = (*_CLOUD_TYPES, np.dtype(np.int32), np.dtype(np.int64))

_Array = npt.NDArray[Any]


def read_npz(path: FilePath) -> XyzImage:
    """Read an organised point cloud, or a depth image, from an NPZ file. Pickled arrays are refused.

    Args:
        path: NPZ file with `xyz`, float32 or float64 `[h, w, 3]` in metres; or with `depth`, uint16, float32 or
            float64 `[h, w]`, `intrinsics` `[4]` (fx, fy, cx, cy in pixels) and `depth_scale` (metres per unit;
            optional for floating-point depth in metres). Other arrays are ignored.

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where the sensor saw nothing.

    Raises:
        InputError: The file is missing, empty, damaged or not an NPZ; an array is missing, has another shape or
            type, or is beyond a limit (see `limits`); or the points are in millimetres.
    """
    with open_input(path, expected=_EXPECTED) as file:
        if file.read(len(_ZIP)) != _ZIP:
            _refuse(path, "a file that is not an NPZ archive", "write the file with numpy.savez")
        with decoding(path, expected=_EXPECTED):
            file.seek(0)
            with zipfile.ZipFile(bounded(file)) as archive:
                members = len(archive.infolist())
                if members > limits.MAX_ARCHIVE_MEMBERS:
                    too_many(members, "arrays in one file", limits.MAX_ARCHIVE_MEMBERS)
                return _cloud(path, archive)


def _cloud(path: FilePath, archive: zipfile.ZipFile) -> XyzImage:
    names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    if "xyz" in names:
        return finish_cloud(path, _read_array(path, archive, "xyz", (None, None, 3), _CLOUD_TYPES))
    if "depth" not in names or "intrinsics" not in names:
        problem = f"arrays {', '.join(names)[:80]}" if names else "no array"
        _refuse(path, problem, "save the cloud as xyz, or the depth image as depth with its intrinsics")
    depth = _read_array(path, archive, "depth", (None, None), DEPTH_TYPES)
    intrinsics = _intrinsics(path, archive, depth, scaled="depth_scale" in names)
    return finish_depth(path, depth, intrinsics, if_millimetres="add depth_scale = 0.001")


def _intrinsics(path: FilePath, archive: zipfile.ZipFile, depth: _Array, *, scaled: bool) -> Intrinsics:
    fx, fy, cx, cy = _read_array(path, archive, "intrinsics", (4,), _NUMBERS).astype(np.float64).tolist()
    scale = float(_read_array(path, archive, "depth_scale", (), _NUMBERS)) if scaled else None
    values = [fx, fy, cx, cy, *([] if scale is None else [scale])]
    if not np.isfinite(values).all() or min(fx, fy) <= 0 or (scale is not None and scale <= 0):
        _refuse(path, f"intrinsics and scale {values}", "use finite numbers, and fx, fy and depth_scale above 0")
    return Intrinsics(fx, fy, cx, cy, depth_scale_of(path, scale, depth))


def _read_array(
    path: FilePath,
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int | None, ...],
    dtypes: tuple[np.dtype[Any], ...],
) -> _Array:
    """Read one array of an archive. The shape and type are checked before the data are decompressed."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in _COMPRESSIONS or info.flag_bits & 1:
        _refuse(path, "a compression or encryption that NumPy does not write", "write the file with numpy.savez")
    with archive.open(info) as member:
        stored, by_columns, dtype = _read_array_header(member)
        if dtype.newbyteorder("=") not in dtypes or not _fits(stored, shape):
            _refuse(path, f"{name} of {dtype} {list(stored)}", f"save {name} as {dtypes[0]} {_named(shape)}")
        if len(stored) > 1:
            check_points(path, *stored[:2])
        size = int(np.prod(stored, dtype=np.int64)) * dtype.itemsize
        data = member.read(size + 1)  # One more byte reaches the end, where zipfile compares the checksum.
    if len(data) != size:
        raise ValueError(f"the length of {name} differs from the header")
    return np.frombuffer(data, dtype).reshape(stored, order="F" if by_columns else "C").astype(dtype.newbyteorder("="))


def _read_array_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    readers = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }
    if version not in readers:
        raise ValueError(f"array format {version}")
    width, read = readers[version]
    length = member.read(width)
    size = int.from_bytes(length, "little")
    if size > limits.MAX_ARRAY_HEADER_BYTES:  # NumPy would allocate and unpack any size first.
        too_many(size, "bytes in the header of an array", limits.MAX_ARRAY_HEADER_BYTES)
    return read(io.BytesIO(length + member.read(size)))


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(
        size == required if required is not None else size > 0 for size, required in pairs
    )


def _named(shape: tuple[int | None, ...]) -> str:
    names = iter("hw")
    return f"[{', '.join(str(next(names) if size is None else size) for size in shape)}]"


def _refuse(path: FilePath, problem: str, action: str) -> NoReturn:
    raise InputError(path, found=problem, expected=_EXPECTED, action=action, reason="unsupported")
