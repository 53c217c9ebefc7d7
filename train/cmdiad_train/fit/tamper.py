"""Make obviously defective copies of good samples, so that a golden set contains both verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cmdiad_runtime.preprocess.cloud.foreground import foreground_mask
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.sample import Mask, RgbImage, Sample, XyzImage

PATCH_SHARE = 0.12
"""Diameter of the changed disc as a fraction of the shorter side of the image."""
BUMP_HEIGHT = 0.004
"""Height of the bump towards the sensor, metres."""


def tamper(sample: Sample, preprocessing: Preprocessing) -> Sample:
    """Return a copy with a checkerboard disc in the image and a bump on the part in the cloud.

    Args:
        sample: Good sample.
        preprocessing: Preprocessing of the detector; only data of its modality are changed.
    """
    if preprocessing.modality != "xyz":
        sample = replace(sample, rgb=_chequered(sample))
    if preprocessing.modality != "rgb":
        sample = replace(sample, xyz=_bumped(sample, preprocessing.seed))
    return sample


def _chequered(sample: Sample) -> RgbImage:
    assert sample.rgb is not None
    height, width = sample.rgb.shape[:2]
    disc = _disc((height, width), height // 2, width // 2)
    rows, columns = np.indices((height, width)) // 4
    chequer = ((rows + columns) % 2 * 255).astype(np.uint8)
    return np.where(disc[..., None], chequer[..., None], sample.rgb)


def _bumped(sample: Sample, seed: int) -> XyzImage:
    """Return the cloud with a bump at the centre of the part."""
    assert sample.xyz is not None
    part = foreground_mask(sample.xyz, seed=seed)
    rows, columns = np.nonzero(part)
    disc = _disc(part.shape, int(np.median(rows)), int(np.median(columns))) & part
    xyz = sample.xyz.copy()
    xyz[disc] *= (1 - BUMP_HEIGHT / np.linalg.norm(xyz[disc], axis=1))[:, None].astype(np.float32)
    return xyz


def _disc(shape: tuple[int, ...], row: int, column: int) -> Mask:
    radius = PATCH_SHARE * min(shape) / 2
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
