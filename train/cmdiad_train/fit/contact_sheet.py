"""A picture of training samples with the outline of what is taken for the part, for a person to check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image, ImageDraw

from cmdiad_runtime.inspection.overlay import depth_image
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.sample import Mask, RgbImage, Sample
from cmdiad_runtime.support.files import atomic_write

FILE = "parts.png"
"""Name of the contact sheet in a run."""

_TILE = 200
_TEXT = 14
_COLUMNS = 6
_IMAGE_COLOUR = (255, 0, 255)
_CLOUD_COLOUR = (0, 255, 255)
_BLANK = 24


def draw_tile(sample: Sample, geometry: PartGeometry, *, image: bool, cloud: bool) -> RgbImage:
    """Return a sample with the outline of what is taken for its part, uint8 `[214, 200, 3]`, RGB order.

    Args:
        sample: Good sample.
        geometry: Geometry of the sample.
        image: Outline the part of the image, in magenta.
        cloud: Outline the part of the cloud, in cyan; only if cloud and image are registered or there is no image.
    """
    picture = sample.rgb if sample.rgb is not None else depth_image(geometry.xyz)
    share = 0.0
    thumbnail = Image.fromarray(picture)
    thumbnail.thumbnail((_TILE, _TILE))
    drawn = np.array(thumbnail)
    for used, colour in ((cloud, _CLOUD_COLOUR), (image, _IMAGE_COLOUR)):
        if used:
            mask = geometry.image_regions.mask if colour == _IMAGE_COLOUR else geometry.foreground
            share = float(mask.mean())
            drawn[_outline(mask, drawn.shape)] = colour
    tile = np.full((_TILE + _TEXT, _TILE, 3), _BLANK, dtype=np.uint8)
    tile[: drawn.shape[0], : drawn.shape[1]] = drawn
    text = Image.fromarray(tile)
    name = Path(sample.name).name.encode("ascii", "replace").decode("ascii")[-20:]
    ImageDraw.Draw(text).text((2, _TILE), f"{name}  {share:.1%}", fill=(255, 255, 255))
    return np.asarray(text)


def write_contact_sheet(path: Path, tiles: Sequence[RgbImage]) -> None:
    """Write the tiles as one picture.

    Raises:
        OutputError: The file cannot be written.
    """
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    blank = np.full_like(tiles[0], _BLANK)
    filled = [*tiles, *([blank] * (rows * columns - len(tiles)))]
    sheet = np.vstack([np.hstack(filled[row * columns : (row + 1) * columns]) for row in range(rows)])
    with atomic_write(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="png")


def _outline(mask: Mask, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    small = np.asarray(Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).resize((shape[1], shape[0]))) > 127
    return np.asarray(small & ~scipy.ndimage.binary_erosion(small))
