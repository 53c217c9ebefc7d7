"""Write the pictures of one part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_line.records.picture_places import OVERLAY, RESULT, RGB, XYZ
from cmdiad_line.transport.messages import Inspected, Result
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.sample import RgbImage, Sample

Arrays = Mapping[str, npt.NDArray[Any]]
"""Arrays of a frame slot by name: "rgb", "xyz", "map"."""

_FAST = 1
"""Compression level of PNG files: twice as fast as the default, and a tenth larger."""


def write_pictures(folder: Path, arrays: Arrays, result: Result, inspected: Inspected | None, *, overlay: bool) -> None:
    """Write the pictures of a part into a new folder, which has its name when it is complete.

    Nothing is flushed: that would delay the records, which are on the same disk. A power failure may damage the last
    pictures.

    Args:
        folder: Folder of the part; its parent must exist.
        arrays: Arrays of the frame.
        result: Published result.
        inspected: Verdict of the detector, or None.
        overlay: True to draw the heatmap, too.

    Raises:
        OSError: The disk is full, or the folder exists.
    """
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        if "rgb" in arrays:
            Image.fromarray(arrays["rgb"]).save(temporary / RGB, compress_level=_FAST)
        if "xyz" in arrays:
            np.savez(temporary / XYZ, xyz=arrays["xyz"])
        drawn = draw(arrays, result, inspected) if overlay else None
        if drawn is not None:
            Image.fromarray(drawn).save(temporary / OVERLAY, compress_level=_FAST)
        (temporary / RESULT).write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def draw(arrays: Arrays, result: Result, inspected: Inspected | None) -> RgbImage | None:
    """Return the picture with heatmap and published verdict, uint8 `[h, w, 3]`, RGB order.

    Returns:
        The picture, or None if the arrays do not allow one, for example because a value of the map is not finite.
    """
    sample = Sample(str(result.acquisition_id), rgb=arrays.get("rgb"), xyz=arrays.get("xyz"))
    view = None if inspected is None or inspected.square is None else _square(inspected.square)
    try:
        return Inspection(
            name=sample.name,
            reason=cast("Reason", result.reason) if result.verdict == "NG" else None,
            message=result.message,
            score=np.nan if inspected is None or inspected.score is None else inspected.score,
            threshold=0.0 if inspected is None else inspected.threshold,
            map_threshold=0.0 if inspected is None else inspected.map_threshold,
            map=arrays.get("map") if view is not None else None,
            view=view,
            sample=sample,
        ).overlay()
    except ValueError:
        return None


def size_of(arrays: Arrays) -> int:
    """Return the largest number of bytes that the pictures of a part take, in practice."""
    pixels = sum(array.nbytes for name, array in arrays.items() if name != "map")
    shape = next((array.shape for name, array in arrays.items() if name != "map"), (0, 0))
    return pixels + 3 * shape[0] * shape[1] + 65_536


def _square(values: tuple[int, ...]) -> PaddedSquare | None:
    """Return the square of `Inspected.square`: top, left, side, height, width."""
    if len(values) != 5:
        return None
    top, left, side, height, width = values
    return PaddedSquare(height, width, top, left, side)
