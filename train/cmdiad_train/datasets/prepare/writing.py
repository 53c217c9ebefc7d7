"""Write the files of prepared samples, each complete or not at all, with bytes that repeat."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from cmdiad_runtime.sample import XyzImage
from cmdiad_runtime.support.files import atomic_write


def write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write an image uint8 `[h, w]` or `[h, w, 3]` (RGB order) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=4)
    write_bytes(path, buffer.getvalue())


def write_tiff(path: Path, xyz: XyzImage) -> None:
    """Write a cloud as uncompressed TIFF, without time stamp and software version, so that the bytes repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        tifffile.imwrite(temporary, xyz, photometric="rgb", metadata=None, software=False)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
