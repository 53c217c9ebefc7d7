"""Results of a run over many samples: one line of JSON and one overlay picture per sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.sample import RgbImage
from cmdiad_runtime.support.files import atomic_write


class Results:
    """Writer of `results.jsonl`, line by line, and of pictures in `overlays/`."""

    def __init__(self, folder: Path, lines: TextIO) -> None:
        self.folder = folder
        self._lines = lines

    def add(self, inspection: Inspection, *, read_ms: float, overlay: Path | None) -> None:
        """Write the line of a sample."""
        result = inspection.to_dict()
        line: dict[str, Any] = {"input": result.pop("name"), **result}
        line["timings_ms"] = {"read": round(read_ms, 3), **result["timings_ms"]}
        if overlay is not None:
            line["overlay"] = overlay.relative_to(self.folder).as_posix()
        self._write(line)

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
