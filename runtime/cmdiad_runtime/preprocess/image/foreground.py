"""The part's pixels in a camera image: the part is brighter than its support."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image, ImageFilter

from cmdiad_runtime.preprocess.image.morphology import grown
from cmdiad_runtime.sample import Mask, RgbImage

_WORKING_EDGE = 400
"""Pixels: larger images are reduced to about this size to find the part; the lengths below refer to that size."""
_SMOOTHED = 1.5
_CLOSED = 10  # radius: dark grooves up to twice as wide do not cut a part in two
_LEAST_AREA = 100
_LEAST_DIFFERENCE = 20.0  # grey levels between part and support
_MOST_OF_RIM = 0.5  # share of the frame's pixels; a region that covers more is no part on a support


def image_foreground(rgb: RgbImage) -> Mask:
    """Find the part: the largest region brighter than the support, with small gaps closed and holes filled.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.

    Returns:
        The part's pixels, bool `[h, w]`; all False if no bright part lies on a darker support.
    """
    height, width = rgb.shape[:2]
    factor = max(1, round(max(height, width) / _WORKING_EDGE))
    smooth = Image.fromarray(rgb.max(axis=2)).reduce(factor).filter(ImageFilter.GaussianBlur(_SMOOTHED))
    brightest = np.asarray(smooth)
    part = _filled(_largest_region(_closed(brightest > _threshold(brightest), _CLOSED)))
    rim = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    if part.sum() < _LEAST_AREA or rim.mean() > _MOST_OF_RIM:
        return np.zeros((height, width), dtype=np.bool_)
    return part.repeat(factor, axis=0).repeat(factor, axis=1)[:height, :width]


def _threshold(brightest: npt.NDArray[np.uint8]) -> float:
    """Return the grey level half way from the support's mean to Otsu's threshold.

    Half way, faces of the part in shadow still belong to the part. Otsu 1979, "A threshold selection method from
    gray-level histograms", maximises the variance between two classes. If the classes hardly differ, the threshold is
    infinite.
    """
    share = np.bincount(brightest.ravel(), minlength=256) / brightest.size
    dark = np.cumsum(share)
    total = np.cumsum(share * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = total / dark, (total[-1] - total) / (1 - dark)
        between = np.where((dark > 0) & (dark < 1), dark * (1 - dark) * (high - low) ** 2, 0)
    otsu = int(between.argmax())
    if between[otsu] == 0 or high[otsu] - low[otsu] < _LEAST_DIFFERENCE:
        return np.inf
    return float(low[otsu] + otsu) / 2


def _closed(mask: Mask, radius: int) -> Mask:
    """Close gaps up to twice the radius wide; beyond the image's edge lies background."""
    larger = grown(np.pad(mask, radius + 1), radius)
    return ~grown(~larger, radius)[radius + 1 : -radius - 1, radius + 1 : -radius - 1]


def _largest_region(mask: Mask) -> Mask:
    """Return the largest connected region."""
    regions, _ = scipy.ndimage.label(mask)
    area = np.bincount(regions.ravel())
    area[0] = 0
    return np.asarray((regions == area.argmax()) & mask)


def _filled(mask: Mask) -> Mask:
    """Fill holes: background regions that do not touch the image border."""
    outside, _ = scipy.ndimage.label(~np.pad(mask, 1))
    return np.asarray(outside != outside[0, 0])[1:-1, 1:-1]
