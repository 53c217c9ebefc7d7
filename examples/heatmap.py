"""Draw the anomaly map over a picture that is not square.

The network sees a square, so a picture is padded first. `Inspection.heatmap` returns the map in the pixels of the
picture itself, without the padding. `Inspection.overlay` draws a picture with a fixed colour scale and the verdict.

Run: python examples/heatmap.py BUNDLE IMAGE OUTPUT.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from cmdiad import Inspector, Sample, read_rgb


def main(bundle: Path, image: Path, output: Path) -> None:
    """Blend red over the picture where the map exceeds half of the map threshold."""
    picture = read_rgb(image)
    with Inspector.open(bundle) as inspector:
        inspection = inspector.inspect(Sample(image.name, rgb=picture))
    if not inspection.inspected:
        sys.exit(f"{image.name}: {inspection.verdict}  {inspection.message}")
    heatmap = inspection.heatmap()  # [height, width], like the picture
    strength = np.clip(heatmap / inspection.map_threshold - 0.5, 0, 1)[..., None] * 0.7
    heat = (1 - strength) * picture + strength * np.array([255, 0, 0])
    Image.fromarray(heat.astype(np.uint8)).save(output)
    print(f"{image.name}: {inspection.verdict}  score {inspection.score:.3f}  {output}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*(Path(argument) for argument in sys.argv[1:4]))
