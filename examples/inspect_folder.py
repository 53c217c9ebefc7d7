"""Inspect all images of a folder; write a table of verdicts and pictures of the rejected parts.

Run: python examples/inspect_folder.py BUNDLE FOLDER OUTPUT
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from PIL import Image

from cmdiad import InputError, Inspector, Sample, read_rgb


def main(bundle: Path, folder: Path, output: Path) -> None:
    """Write OUTPUT/verdicts.csv and one overlay per rejected part."""
    output.mkdir(parents=True, exist_ok=True)
    with Inspector.open(bundle) as inspector, (output / "verdicts.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "verdict", "score", "threshold", "reason"])
        for path in sorted(folder.glob("*.png")):
            try:
                sample = Sample(path.name, rgb=read_rgb(path))
                inspection = inspector.inspect(sample)
            except InputError as error:
                # A part that cannot be inspected is not OK. The message says what is wrong with the file.
                table.writerow([path.name, "NG", "", "", str(error)])
                continue
            figures = f"{inspection.score:.4f}", f"{inspection.threshold:.4f}"
            table.writerow([path.name, inspection.verdict, *figures, ""])
            if inspection.verdict == "NG":
                Image.fromarray(inspection.overlay()).save(output / f"{path.stem}-overlay.png")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*(Path(argument) for argument in sys.argv[1:4]))
