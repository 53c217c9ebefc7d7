"""Inspect clouds of a private format: only an array of metres is needed, not a reader inside cmdiad.

The format of this example: two little-endian uint32 (height, width), then float32 x, y, z in millimetres for each
pixel, row by row, with NaN where the sensor saw nothing.

Run: python examples/custom_reader.py BUNDLE FILE...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cmdiad import Inspector, OpenOptions, Sample

HEADER_BYTES = 8


def read_raw3d(path: Path) -> npt.NDArray[np.float32]:
    """Read a cloud.

    Args:
        path: File of the private format.

    Returns:
        float32 `[h, w, 3]`, x y z in metres, zeros where the sensor saw nothing.

    Raises:
        ValueError: The file has another size than its header states.
    """
    content = path.read_bytes()
    height, width = np.frombuffer(content[:HEADER_BYTES], dtype="<u4")
    if len(content) != HEADER_BYTES + 12 * int(height) * int(width):
        raise ValueError(f"{path}: {len(content)} bytes do not hold {height} x {width} points")
    millimetres = np.frombuffer(content, dtype="<f4", offset=HEADER_BYTES).reshape(height, width, 3)
    return np.nan_to_num(millimetres / 1000).astype(np.float32)


def main(bundle: Path, files: list[Path]) -> None:
    """Print the verdict of each file."""
    with Inspector.open(bundle, OpenOptions(modality="xyz")) as inspector:
        for path in files:
            inspection = inspector.inspect(Sample(path.name, xyz=read_raw3d(path)))
            detail = f"score {inspection.score:.3f}" if inspection.inspected else inspection.message
            print(f"{path.name}: {inspection.verdict}  {detail}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
