"""Reading samples from files: colour or grey images, and organised point clouds.

Whatever cannot be read exactly as the sensor wrote it ends in one `InputError`; nothing is guessed or
repaired. The formats are described in docs/formats.md.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._files import FilePath, open_input
from cmdiad_runtime.readers.image import Colour, image_colour, read_rgb
from cmdiad_runtime.sample import XyzImage

__all__ = ["RGB_SUFFIXES", "XYZ_SUFFIXES", "Colour", "image_colour", "read_rgb", "read_xyz"]

RGB_SUFFIXES = (".png", ".jpg", ".jpeg")
"""How the names of image files end, in lower case."""

_CLOUD_READERS = {
    ".tiff": "tiff",
    ".tif": "tiff",
    ".ply": "ply",
    ".pcd": "pcd",
    ".npz": "npz",
    ".png": "depth",
}
"""The module that reads a cloud, by suffix; its function is `read_` and the module's name."""

XYZ_SUFFIXES = tuple(_CLOUD_READERS)
"""How the names of cloud files end, in lower case. A PNG image is a cloud only as a depth image."""


def read_xyz(path: FilePath) -> XyzImage:
    """Read an organised point cloud, or a depth image with its intrinsics, in the format that the suffix names.

    A point with a NaN or infinite coordinate becomes three zeros. A cloud of nothing but missing points is
    returned as it is.

    Args:
        path: a file ending in one of `XYZ_SUFFIXES`, in upper or lower case.

    Returns:
        float32 `[h, w, 3]` x y z in metres, zeros where the sensor saw nothing.

    Raises:
        InputError: the file is missing, empty, damaged, of another format than its suffix says, not organised
            in rows and columns, without the intrinsics that a depth image needs, larger than 100 million
            points, or in millimetres.
    """
    name = _CLOUD_READERS.get(Path(path).suffix.lower())
    if name is None:
        raise _unknown_format(path)
    module = import_module(f"{__name__}.{name}")
    cloud: XyzImage = getattr(module, f"read_{name}")(path)
    return cloud


def _unknown_format(path: FilePath) -> InputError:
    expected = f"a cloud or depth image in a file ending in {', '.join(XYZ_SUFFIXES)}"
    with open_input(path, expected=expected):  # a missing file or a folder is named as such
        found = f"a file ending in {Path(path).suffix or 'nothing'}"
        return InputError(path, found=found, expected=expected, action="save the cloud in one of these formats")
