"""Digests of samples, which recognise a sample that was used before, whatever its file is called."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.sample import Sample

_DIGITS = 16
"""Hexadecimal digits of a digest: two of a million different samples agree once in 37 million data sets."""


def digest_of(sample: Sample, preprocessing: Preprocessing) -> str:
    """Return the digest of the image of a sample, or of the cloud if the detector inspects no image.

    Args:
        sample: Sample with the modality of the detector.
        preprocessing: Settings of the detector.

    Returns:
        16 hexadecimal digits.
    """
    array = sample.xyz if preprocessing.modality == "xyz" else sample.rgb
    assert array is not None
    return pixels_of(array)[:_DIGITS]


def pixels_of(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of type, shape and content of an array."""
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
