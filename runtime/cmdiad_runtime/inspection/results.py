"""Results of a run over many samples: one line of JSON and one overlay picture per sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.errors import CmdiadError, OutputError
from cmdiad_runtime.inspection.inspector import Inspection
from cmdiad_runtime.inspection.overlay import anomaly_overlay, depth_image, verdict_banner
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.sample import RgbImage, Sample
from cmdiad_runtime.support.files import atomic_write


class Results:
    """Writer of `results.jsonl`, line by line, and of pictures in `overlays/`."""

    def __init__(self, folder: Path, lines: TextIO) -> None:
        self.folder = folder
        self._lines = lines

    def add(self, inspection: Inspection, *, read_ms: float, overlay: Path | None) -> None:
        """Write the line of an inspected sample."""
        line: dict[str, Any] = {
            "input": inspection.name,
            "verdict": inspection.verdict,
            "score": inspection.score,
            "threshold": inspection.threshold,
            "map_max": float(inspection.map.max()),
            "timings_ms": {key: round(value, 3) for key, value in {"read": read_ms, **inspection.timings_ms}.items()},
        }
        if overlay is not None:
            line["overlay"] = overlay.relative_to(self.folder).as_posix()
        self._write(line)

    def add_error(self, name: str, error: CmdiadError) -> None:
        """Write the line of a sample that could not be inspected."""
        self._write({"input": name, "error": {"kind": type(error).__name__, "message": str(error)}})

    def save_overlay(self, name: str, picture: RgbImage) -> Path:
        """Write `overlays/NAME.png`."""
        path = self.folder / "overlays" / f"{name}.png"
        with atomic_write(path) as temporary:
            Image.fromarray(picture).save(temporary, compress_level=1)
        return path

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()


@contextmanager
def open_results(folder: Path) -> Iterator[Results]:
    """Open a folder for results. `results.jsonl` appears when the block ends, also after an error.

    Raises:
        OutputError: The folder cannot be written.
    """
    part = folder / ".results.jsonl.part"
    try:
        (folder / "overlays").mkdir(parents=True, exist_ok=True)
        file = part.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            folder,
            found=(error.strerror or str(error)).lower(),
            expected="a folder to write results to",
            action="choose another --output",
        ) from error
    try:
        with file:
            yield Results(folder, file)
    finally:
        part.replace(folder / "results.jsonl")


def draw_overlay(sample: Sample, inspection: Inspection, map_threshold: float) -> RgbImage:
    """Draw the anomaly map and the verdict over the sample's own picture.

    Args:
        sample: Inspected sample.
        inspection: Result for the sample.
        map_threshold: Map value that the colour scale is tied to.

    Returns:
        uint8 `[h, w, 3]` RGB, of the size of the sample.
    """
    if sample.rgb is not None:
        picture = sample.rgb
    else:
        assert sample.xyz is not None
        picture = depth_image(sample.xyz)
    view = inspection.view
    square = np.zeros((view.side, view.side, 3), dtype=np.uint8)
    _part(square, view)[:] = picture
    overlay = _part(anomaly_overlay(square, inspection.map, map_threshold), view)
    text = f"{inspection.verdict} {inspection.score:.3g} / thr {inspection.threshold:.3g}"
    return verdict_banner(np.ascontiguousarray(overlay), text, ok=inspection.verdict == "OK")


def _part(square: npt.NDArray[np.uint8], view: PaddedSquare) -> npt.NDArray[np.uint8]:
    """Return the sensor's image within the padded square, as a view of the array."""
    return square[view.top : view.top + view.height, view.left : view.left + view.width]
