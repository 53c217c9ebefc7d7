"""Draw the anomaly map over a picture that is not square.

The network sees a square, so a picture is padded first, and `Inspection.map` covers the padded square. `view` states
where the picture lies in it.

Run: python examples/heatmap.py BUNDLE IMAGE OUTPUT.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad import Inspection, Inspector, Sample, read_rgb


def map_over_picture(inspection: Inspection) -> npt.NDArray[np.float32]:
    """Return the anomaly map in the pixels of the picture, float32 `[height, width]`."""
    view = inspection.view
    square = Image.fromarray(inspection.map).resize((view.side, view.side), Image.Resampling.BILINEAR)
    return np.asarray(square)[view.top : view.top + view.height, view.left : view.left + view.width]


def main(bundle: Path, image: Path, output: Path) -> None:
    """Blend red over the picture where the map exceeds the bundle's map threshold."""
    picture = read_rgb(image)
    with Inspector.open(bundle) as inspector:
        inspection = inspector.inspect(Sample(image.name, rgb=picture))
        threshold = inspector.bundle.calibration.map_threshold
    strength = np.clip(map_over_picture(inspection) / threshold - 0.5, 0, 1)[..., None] * 0.7
    heat = (1 - strength) * picture + strength * np.array([255, 0, 0])
    Image.fromarray(heat.astype(np.uint8)).save(output)
    print(f"{image.name}: {inspection.verdict}  score {inspection.score:.3f}  {output}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*(Path(argument) for argument in sys.argv[1:4]))
