"""Inspect all images of a folder; write a table of verdicts and pictures of the rejected parts.

The command cmdiad-run does this with more care for disks, signals and strange files (docs/results.md). This program
shows the parts to build a station of another kind.

Run: python examples/inspect_folder.py BUNDLE FOLDER OUTPUT
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from cmdiad import InputError, Inspector, Sample, read_rgb

COLUMNS = ("name", "verdict", "reason", "score", "threshold", "message")


def inspect(inspector: Inspector, path: Path, overlay: Path) -> dict[str, Any]:
    """Return the result of one file, and write a picture of a rejected part."""
    try:
        sample = Sample(path.name, rgb=read_rgb(path))
    except InputError as error:
        # A file that cannot be read is not OK. The reason is for programs, the message for people.
        return {"name": path.name, "verdict": "NG", "reason": error.reason, "message": str(error)}
    inspection = inspector.inspect(sample)  # never raises for the content of a sample
    if inspection.verdict == "NG":
        Image.fromarray(inspection.overlay()).save(overlay)
    return inspection.to_dict()


def main(bundle: Path, folder: Path, output: Path) -> None:
    """Write OUTPUT/verdicts.csv and one overlay per rejected part."""
    output.mkdir(parents=True, exist_ok=True)
    with Inspector.open(bundle) as inspector, (output / "verdicts.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        table.writeheader()
        for path in sorted(folder.glob("*.png")):
            table.writerow(inspect(inspector, path, output / f"{path.stem}-overlay.png"))
            file.flush()  # A verdict that was given must not be lost.


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*(Path(argument) for argument in sys.argv[1:4]))
