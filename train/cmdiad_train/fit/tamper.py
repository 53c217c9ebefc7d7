"""Make obviously defective copies of good samples, so that a golden set contains both verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy
from PIL import Image

from cmdiad_runtime.preprocess.cloud.foreground import foreground_mask
from cmdiad_runtime.preprocess.prepare import part_geometry, prepare_parts
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.masking import over_sensor
from cmdiad_runtime.preprocess.views.several import parts_of
from cmdiad_runtime.sample import Mask, RgbImage, Sample, XyzImage

PATCH_SHARE = 0.12
"""Diameter of the changed disc as a fraction of the shorter side of the image."""
PART_SHARE = 0.2
"""Diameter of the changed disc as a fraction of the edge of a square with the area of one of several parts."""
BUMP_HEIGHT = 0.004
"""Height of the bump towards the sensor, metres."""


def tamper(sample: Sample, preprocessing: Preprocessing, *, strength: float = 1.0) -> Sample:
    """Return a copy with a checkerboard disc in the image and a bump on the part in the cloud.

    With several parts in the sample, each has its own disc, in proportion to the part. Discs lie outside the region
    that an inspection mask ignores.

    Args:
        sample: Good sample.
        preprocessing: Preprocessing of the detector; only data of its modality are changed.
        strength: Share of the checkerboard in the colours of the disc, and height of the bump as a share of
            `BUMP_HEIGHT`; 0-1.
    """
    ignored = _ignored_pixels(sample, preprocessing)
    if preprocessing.parts > 1:
        image, bumps = _discs_on_parts(sample, preprocessing, ignored)
    else:
        image, bumps = _discs(sample, preprocessing, ignored)
    if image is not None:
        sample = replace(sample, rgb=_chequered(sample, image, strength))
    return replace(sample, xyz=_bumped(sample, bumps, strength * BUMP_HEIGHT)) if bumps else sample


def _ignored_pixels(sample: Sample, preprocessing: Preprocessing) -> Mask | None:
    """Return the pixels of the sensor's picture that the inspection mask ignores, bool `[h, w]`; None without one."""
    if preprocessing.ignored is None:
        return None
    parts = prepare_parts(sample, preprocessing)
    region, square = np.any([over_sensor(part, preprocessing.ignored) for part in parts], axis=0), parts[0].square
    resized = np.array(Image.fromarray(region).resize((square.side, square.side), Image.Resampling.NEAREST))
    return resized[square.top : square.top + square.height, square.left : square.left + square.width]


def _discs(sample: Sample, preprocessing: Preprocessing, ignored: Mask | None) -> tuple[Mask | None, list[Mask]]:
    """Return the disc in the image, or None, and the discs in the cloud."""
    image: Mask | None = None
    bumps: list[Mask] = []
    if preprocessing.modality != "xyz":
        assert sample.rgb is not None
        height, width = shape = sample.rgb.shape[:2]
        diameter = PATCH_SHARE * min(shape)
        image = _disc(shape, height // 2, width // 2, diameter)
        if ignored is not None:
            image = _disc_on(np.ones(shape, dtype=np.bool_), diameter, ignored)
    if preprocessing.modality != "rgb":
        assert sample.xyz is not None
        part = foreground_mask(sample.xyz, seed=preprocessing.seed)
        bumps = [_disc_on(part, PATCH_SHARE * min(part.shape), ignored)]
    return image, bumps


def _discs_on_parts(
    sample: Sample, preprocessing: Preprocessing, ignored: Mask | None
) -> tuple[Mask | None, list[Mask]]:
    """Return the discs in the image, or None, and the discs in the cloud, one for each part."""
    geometries = parts_of(part_geometry(sample, preprocessing), preprocessing)
    image: Mask | None = None
    bumps: list[Mask] = []
    if preprocessing.modality != "xyz":
        in_image = preprocessing.part is not None
        parts = [geometry.image_regions.mask if in_image else geometry.part for geometry in geometries]
        image = np.any([_disc_on(part, _share_of(part), ignored) for part in parts], axis=0)
    if preprocessing.modality != "rgb":
        bumps = [_disc_on(geometry.part, _share_of(geometry.part), ignored) for geometry in geometries]
    return image, bumps


def _share_of(part: Mask) -> float:
    return PART_SHARE * float(np.count_nonzero(part)) ** 0.5


def _chequered(sample: Sample, disc: Mask, strength: float) -> RgbImage:
    assert sample.rgb is not None
    height, width = sample.rgb.shape[:2]
    rows, columns = np.indices((height, width)) // 4
    chequer = ((rows + columns) % 2 * 255)[..., None]
    mixed = np.rint(strength * chequer + (1 - strength) * sample.rgb).astype(np.uint8)
    return np.where(disc[..., None], mixed, sample.rgb)


def _bumped(sample: Sample, discs: Sequence[Mask], height: float) -> XyzImage:
    """Return the cloud with its points on the discs moved towards the sensor by a height in metres."""
    assert sample.xyz is not None
    xyz = sample.xyz.copy()
    for disc in discs:
        xyz[disc] *= (1 - height / np.linalg.norm(xyz[disc], axis=1))[:, None].astype(np.float32)
    return xyz


def _disc_on(part: Mask, diameter: float, ignored: Mask | None) -> Mask:
    """Return the pixels of a part within a disc around the median of its pixels, or near there if that is ignored."""
    rows, columns = np.nonzero(part)
    row, column = int(np.median(rows)), int(np.median(columns))
    if ignored is not None and (part & ~ignored).any():
        free = scipy.ndimage.distance_transform_edt(np.pad(part & ~ignored, 1))[1:-1, 1:-1]
        rows, columns = np.nonzero(free >= min(diameter / 2, free.max()))
        nearest = int(np.argmin((rows - row) ** 2 + (columns - column) ** 2))
        row, column = int(rows[nearest]), int(columns[nearest])
    return _disc(part.shape, row, column, diameter) & part


def _disc(shape: tuple[int, ...], row: int, column: int, diameter: float) -> Mask:
    radius = diameter / 2
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
