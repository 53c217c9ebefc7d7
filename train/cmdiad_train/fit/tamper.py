"""Make obviously defective copies of good samples, so that a golden set contains both verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cmdiad_runtime.preprocess.cloud.foreground import foreground_mask
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.several import part_geometries
from cmdiad_runtime.sample import Mask, RgbImage, Sample, XyzImage

PATCH_SHARE = 0.12
"""Diameter of the changed disc as a fraction of the shorter side of the image."""
PART_SHARE = 0.2
"""Diameter of the changed disc as a fraction of the edge of a square with the area of one of several parts."""
BUMP_HEIGHT = 0.004
"""Height of the bump towards the sensor, metres."""


def tamper(sample: Sample, preprocessing: Preprocessing) -> Sample:
    """Return a copy with a checkerboard disc in the image and a bump on the part in the cloud.

    Args:
        sample: Good sample.
        preprocessing: Preprocessing of the detector; only data of its modality are changed.
    """
    if preprocessing.parts > 1:
        return _with_tampered_parts(sample, preprocessing)
    if preprocessing.modality != "xyz":
        assert sample.rgb is not None
        height, width = sample.rgb.shape[:2]
        disc = _disc((height, width), height // 2, width // 2, PATCH_SHARE * min(height, width))
        sample = replace(sample, rgb=_chequered(sample, disc))
    if preprocessing.modality != "rgb":
        assert sample.xyz is not None
        part = foreground_mask(sample.xyz, seed=preprocessing.seed)
        sample = replace(sample, xyz=_bumped(sample, [_disc_on(part, PATCH_SHARE * min(part.shape))]))
    return sample


def _with_tampered_parts(sample: Sample, preprocessing: Preprocessing) -> Sample:
    """Return a copy in which every part has a changed disc, in proportion to the part."""
    image: Mask | None = None
    bumps: list[Mask] = []
    for geometry in part_geometries(sample, preprocessing):
        in_image = geometry.image_part if geometry.image_part is not None else geometry.part
        disc = _disc_on(in_image, PART_SHARE * float(np.count_nonzero(in_image)) ** 0.5)
        image = disc if image is None else image | disc
        if preprocessing.modality != "rgb":
            bumps.append(_disc_on(geometry.part, PART_SHARE * float(np.count_nonzero(geometry.part)) ** 0.5))
    if preprocessing.modality != "xyz" and image is not None:
        sample = replace(sample, rgb=_chequered(sample, image))
    if preprocessing.modality != "rgb":
        sample = replace(sample, xyz=_bumped(sample, bumps))
    return sample


def _chequered(sample: Sample, disc: Mask) -> RgbImage:
    assert sample.rgb is not None
    height, width = sample.rgb.shape[:2]
    rows, columns = np.indices((height, width)) // 4
    chequer = ((rows + columns) % 2 * 255).astype(np.uint8)
    return np.where(disc[..., None], chequer[..., None], sample.rgb)


def _bumped(sample: Sample, discs: Sequence[Mask]) -> XyzImage:
    """Return the cloud with its points on the discs moved towards the sensor."""
    assert sample.xyz is not None
    xyz = sample.xyz.copy()
    for disc in discs:
        xyz[disc] *= (1 - BUMP_HEIGHT / np.linalg.norm(xyz[disc], axis=1))[:, None].astype(np.float32)
    return xyz


def _disc_on(part: Mask, diameter: float) -> Mask:
    """Return the pixels of a part within a disc around the median of its pixels."""
    rows, columns = np.nonzero(part)
    return _disc(part.shape, int(np.median(rows)), int(np.median(columns)), diameter) & part


def _disc(shape: tuple[int, ...], row: int, column: int, diameter: float) -> Mask:
    radius = diameter / 2
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
