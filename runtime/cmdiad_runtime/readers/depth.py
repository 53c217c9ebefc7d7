"""Reader of depth images in 16-bit PNG files, and the pinhole camera model that turns depth into points."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import PngImagePlugin

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._cloud import finish_cloud
from cmdiad_runtime.readers._files import (
    PNG_HEADER_BYTES,
    PNG_SIGNATURE,
    FilePath,
    bits_per,
    bounded,
    check_points,
    decoding,
    open_input,
    too_many,
)
from cmdiad_runtime.sample import XyzImage

DEPTH_TYPES = (np.dtype(np.uint16), np.dtype(np.float32), np.dtype(np.float64))
"""Types in which depth can be stored."""

_EXPECTED = "a depth image: a 16-bit grey PNG"
_EXPECTED_INTRINSICS = (
    "the depth camera's intrinsics as JSON: fx, fy, cx, cy in pixels,"
    " and depth_scale, the metres that one unit of depth stands for"
)
_SATURATED = np.iinfo(np.uint16).max
"""Depth in whole numbers that a sensor writes for a point beyond its range."""
_BLOCK_POINTS = 1 << 20
"""Points that are computed at once."""
_OFF_AXIS = 1e-9
"""Distance in metres by which a point on the optical axis is moved, because a coordinate of 0 means a missing point."""


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion.

    Attributes:
        fx: Focal length in pixels along columns.
        fy: Focal length in pixels along rows.
        cx: Column of the optical axis in pixels; the centre of the first pixel is 0.
        cy: Row of the optical axis in pixels.
        depth_scale: Metres per unit of depth.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    depth_scale: float


def read_depth(path: FilePath) -> XyzImage:
    """Read a depth image from a 16-bit grey PNG file, with its intrinsics (see `cloud_of_depth`).

    Args:
        path: PNG file.

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where depth is 0.

    Raises:
        InputError: The file is missing, empty, damaged, not a PNG, not 16-bit grey, or beyond a limit (see `limits`);
            or the intrinsics are missing or wrong.
    """
    with open_input(path, expected=_EXPECTED) as file:
        header = file.read(PNG_HEADER_BYTES)
        file.seek(0)
        if not header.startswith(PNG_SIGNATURE):
            action = "save the depth image as PNG"
            raise InputError(
                path, found="a file that is not a PNG image", expected=_EXPECTED, action=action, reason="unsupported"
            )
        with decoding(path, expected=_EXPECTED):
            image = PngImagePlugin.PngImageFile(bounded(file))
            _check_depth(path, header)
            check_points(path, image.height, image.width)
            depth = np.asarray(image).astype(np.uint16)
    return cloud_of_depth(path, depth)


def cloud_of_depth(path: FilePath, depth: npt.NDArray[Any]) -> XyzImage:
    """Return the cloud of a depth image, with the intrinsics from a file next to the image.

    The intrinsics of `NAME.png` are in `NAME.json` in the same folder, else in `intrinsics.json` there, else in
    `intrinsics.json` in the parent folder. The fields are `fx`, `fy`, `cx`, `cy`, `depth_scale` (optional for
    floating-point depth in metres), and optionally `width` and `height`, which are checked.

    Args:
        path: File of the depth image.
        depth: `[h, w]`, uint16, float32 or float64; 0, 65535 (uint16), NaN and infinity where the sensor saw nothing.

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where the sensor saw nothing.

    Raises:
        InputError: The intrinsics are missing or wrong, a depth is negative, or the points are in millimetres.
    """
    file = _find_intrinsics(path, depth.shape)
    intrinsics = _read_intrinsics(file, path, depth)
    return finish_depth(path, depth, intrinsics, if_millimetres=f"set depth_scale to 0.001 in {file}")


def finish_depth(path: FilePath, depth: npt.NDArray[Any], intrinsics: Intrinsics, *, if_millimetres: str) -> XyzImage:
    """Return the cloud of a depth image.

    Args:
        path: File, for messages.
        depth: `[h, w]`, in units of `depth_scale`.
        intrinsics: Intrinsics of the depth camera.
        if_millimetres: Remedy for points in millimetres.

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where the sensor saw nothing.

    Raises:
        InputError: A depth is negative, or the points are in millimetres.
    """
    points = np.empty((*depth.shape, 3), dtype=np.float32)
    nearest = 0.0
    step = max(1, _BLOCK_POINTS // max(1, depth.shape[1]))
    for row in range(0, len(depth), step):  # The points of one block at a time are in float64.
        block = unproject(depth[row : row + step], intrinsics, first_row=row)
        nearest = min(nearest, float(block[..., 2].min(initial=0.0)))
        with np.errstate(over="ignore"):
            points[row : row + step] = block
    if nearest < 0:
        raise InputError(
            path,
            found=f"a negative depth ({nearest:.6g} m)",
            expected="depths above 0, and 0 or NaN where the sensor saw nothing",
            action="save missing depths as 0",
            reason="unsupported",
        )
    return finish_cloud(path, points, if_millimetres=if_millimetres)


def unproject(depth: npt.NDArray[Any], intrinsics: Intrinsics, *, first_row: int = 0) -> npt.NDArray[np.float64]:
    """Compute the points of a pinhole camera: X = (u − cx) Z / fx, Y = (v − cy) Z / fy.

    Args:
        depth: `[h, w]`, in units of `depth_scale`.
        intrinsics: Intrinsics of the camera.
        first_row: Row of the sensor's image in which `depth` begins.

    Returns:
        float64 `[h, w, 3]` in metres, x right, y down, z forward; zeros where depth is 0, NaN, infinite, or 65535 as
        uint16.
    """
    rows, columns = np.ogrid[first_row : first_row + depth.shape[0], : depth.shape[1]]
    with np.errstate(over="ignore", invalid="ignore"):
        z = depth.astype(np.float64) * intrinsics.depth_scale
        z[~np.isfinite(z)] = 0.0
        if depth.dtype == np.uint16:
            z[depth == _SATURATED] = 0.0
        x = (columns - intrinsics.cx) * z / intrinsics.fx
        y = (rows - intrinsics.cy) * z / intrinsics.fy
    on_axis = z != 0
    x[on_axis & (x == 0)] = _OFF_AXIS
    y[on_axis & (y == 0)] = _OFF_AXIS
    return np.stack([x, y, z], axis=-1)


def depth_scale_of(path: FilePath, scale: float | None, depth: npt.NDArray[Any]) -> float:
    """Return the metres per unit of depth.

    Args:
        path: File with the intrinsics, for messages.
        scale: Scale from the file, or None if the file has none.
        depth: Depth image.

    Returns:
        The scale of the file; 1 for floating-point depth without one.

    Raises:
        InputError: Depth in whole numbers has no scale.
    """
    if scale is not None:
        return scale
    if depth.dtype.kind == "f":
        return 1.0
    raise _bad_intrinsics(path, "no depth_scale", "add depth_scale (0.001 for depth in millimetres)")


def _check_depth(path: FilePath, header: bytes) -> None:
    bits, colour_type = header[24], header[25]
    if (bits, colour_type) != (16, 0):
        problem = f"an image of {bits_per('channel', bits)}" + ("" if colour_type == 0 else " that is not grey")
        action = "save depth as a 16-bit grey PNG, or pass a photo as an image and not as a cloud"
        raise InputError(path, found=problem, expected=_EXPECTED, action=action, reason="unsupported")


def intrinsics_places(path: FilePath) -> list[Path]:
    """Return the files that may have the intrinsics of a depth image; the first that exists is read."""
    image = Path(path).absolute()
    return [image.with_suffix(".json"), *(folder / "intrinsics.json" for folder in list(image.parents)[:2])]


def _find_intrinsics(path: FilePath, shape: tuple[int, ...]) -> Path:
    candidates = intrinsics_places(path)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(
        path,
        found=f"a depth image of shape {list(shape)} without intrinsics (searched {', '.join(map(str, candidates))})",
        expected=_EXPECTED_INTRINSICS,
        action="write one of these files with the values from the software of the sensor",
        reason="missing-file",
    )


def _read_intrinsics(path: Path, image: FilePath, depth: npt.NDArray[Any]) -> Intrinsics:
    with open_input(path, expected=_EXPECTED_INTRINSICS) as file, decoding(path, expected=_EXPECTED_INTRINSICS):
        text = file.read(limits.MAX_JSON_BYTES + 1)
        if len(text) > limits.MAX_JSON_BYTES:
            too_many(len(text), "bytes of JSON", limits.MAX_JSON_BYTES)
        fields = json.loads(text, parse_int=float)
    if not isinstance(fields, dict):
        raise _bad_intrinsics(path, "JSON that is not an object", 'write {"fx": …, "fy": …, …}')
    _check_image_size(path, fields, image, depth)
    fx, fy, cx, cy = (_number(path, fields, name, positive=name.startswith("f")) for name in ("fx", "fy", "cx", "cy"))
    scale = _number(path, fields, "depth_scale", positive=True) if "depth_scale" in fields else None
    return Intrinsics(fx, fy, cx, cy, depth_scale_of(path, scale, depth))


def _number(path: Path, fields: dict[str, Any], name: str, *, positive: bool) -> float:
    if name not in fields:
        raise _bad_intrinsics(path, f"no {name}", f"add {name}")
    value = fields[name]
    if not isinstance(value, float) or not math.isfinite(value) or (positive and value <= 0):
        problem = f"{name} = {json.dumps(value)[:40]}"
        raise _bad_intrinsics(path, problem, "use a positive number" if positive else "use a number")
    return value


def _check_image_size(path: Path, fields: dict[str, Any], image: FilePath, depth: npt.NDArray[Any]) -> None:
    for name, size in zip(("height", "width"), depth.shape, strict=True):
        if fields.get(name, size) != size:
            raise InputError(
                path,
                found=f"{name} {json.dumps(fields[name])[:40]}",
                expected=f"{size}, as in {image}",
                action="use the intrinsics for the resolution of the images",
                reason="unsupported",
            )


def _bad_intrinsics(path: FilePath, problem: str, action: str) -> InputError:
    return InputError(path, found=problem, expected=_EXPECTED_INTRINSICS, action=action, reason="unsupported")
