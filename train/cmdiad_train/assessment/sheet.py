"""Picture of the defects that an assessment puts on good samples, for a person to check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy
from PIL import Image, ImageDraw, ImageOps

from cmdiad_runtime.preprocess.cloud.surface import surface_image
from cmdiad_runtime.sample import RgbImage, Sample
from cmdiad_runtime.support.files import atomic_write
from cmdiad_train.assessment.defects import DEFECTS, GoodPart, inflict

_TILE = 240
_TEXT = 14


def write_defect_sheet(path: Path, samples: Sequence[Sample], *, seed: int) -> None:
    """Write a picture with a row for each sample: unchanged, and with each kind of defect; image above surface.

    Args:
        path: PNG file.
        samples: Good samples with an image and a cloud; at least one.
        seed: Seed of the defects.

    Raises:
        OutputError: The file cannot be written.
    """
    rows = []
    for sample in samples:
        part = GoodPart(sample)
        copies = {"good": sample, **{kind: inflict(kind, part, seed=seed) for kind in DEFECTS}}
        rows.append(np.hstack([_tile(name, copy, part) for name, copy in copies.items()]))
    with atomic_write(path) as temporary:
        Image.fromarray(np.vstack(rows)).save(temporary, format="png")


def _tile(name: str, sample: Sample, part: GoodPart) -> RgbImage:
    """Return image and surface of the part in a sample, uint8 `[494, 240, 3]`."""
    box = scipy.ndimage.find_objects(part.pixels.astype(np.uint8))[0]
    assert sample.rgb is not None and sample.xyz is not None
    surface = surface_image(sample.xyz, part.pixels & sample.xyz.any(axis=2), kind="normals").astype(np.uint8)
    tile = Image.new("RGB", (_TILE, 2 * _TILE + _TEXT))
    ImageDraw.Draw(tile).text((2, 0), name, fill=(255, 255, 255))
    for number, picture in enumerate((sample.rgb, surface)):
        shown = ImageOps.contain(Image.fromarray(picture[box]), (_TILE, _TILE))
        tile.paste(shown, (0, _TEXT + number * _TILE))
    return np.asarray(tile)
