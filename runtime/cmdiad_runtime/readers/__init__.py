"""Readers of samples from files: colour or grey images, and organised point clouds.

A file that cannot be read exactly as the sensor wrote it ends in one InputError. Nothing is guessed or repaired.
docs/formats.md describes the formats.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from cmdiad_runtime.colour import Colour, PlainColour
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._files import FilePath, open_input, refusing_failures
from cmdiad_runtime.readers.image import image_colour, read_rgb
from cmdiad_runtime.sample import XyzImage

__all__ = ["RGB_SUFFIXES", "XYZ_SUFFIXES", "Colour", "PlainColour", "image_colour", "read_rgb", "read_xyz"]

RGB_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".j2k")
"""Suffixes of image files, in lower case. A TIFF file is an image or a cloud; see `folders.loose_files`."""

_CLOUD_READERS = {
    ".tiff": "tiff",
    ".tif": "tiff",
    ".ply": "ply",
    ".pcd": "pcd",
    ".npz": "npz",
    ".png": "depth",
}
"""Module that reads a cloud, by suffix. The name of its function is `read_` and the name of the module."""

XYZ_SUFFIXES = tuple(_CLOUD_READERS)
"""Suffixes of cloud files, in lower case. A PNG file is a cloud only if it is a depth image."""

_CLOUD = f"a cloud or depth image in a file ending in {', '.join(XYZ_SUFFIXES)}"


def read_xyz(path: FilePath) -> XyzImage:
    """Read an organised point cloud, or a depth image with its intrinsics; the suffix selects the format.

    A point with a NaN or infinite coordinate, or with a number that stands for a missing point (see
    `without_missing_numbers`), becomes three zeros. A cloud that contains only missing points is no error.

    Args:
        path: File with one of the suffixes `XYZ_SUFFIXES`, in upper or lower case.

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where the sensor saw nothing.

    Raises:
        InputError: The file is missing, empty, damaged, in another format than its suffix, not organised in rows
            and columns, beyond a limit (see `limits`), or in millimetres; or a depth image has no intrinsics.
    """
    name = _CLOUD_READERS.get(Path(path).suffix.lower())
    if name is None:
        raise _unknown_format(path)
    module = import_module(f"{__name__}.{name}")
    with refusing_failures(path, expected=_CLOUD):
        cloud: XyzImage = getattr(module, f"read_{name}")(path)
        return cloud


def _unknown_format(path: FilePath) -> InputError:
    with open_input(path, expected=_CLOUD):  # A missing file or a folder has a message that says so.
        problem = f"a file ending in {Path(path).suffix or 'nothing'}"
        action = "save the cloud in one of these formats"
        return InputError(path, found=problem, expected=_CLOUD, action=action, reason="unsupported")
