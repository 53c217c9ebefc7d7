"""The part's pixels in a camera image: the part is brighter than its support."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image, ImageFilter

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
    bright, factor = bright_regions(rgb, closed=_CLOSED)
    part = _filled(_largest_region(bright))
    if part.sum() < _LEAST_AREA or _rim(part).mean() > _MOST_OF_RIM:
        return np.zeros((height, width), dtype=np.bool_)
    return part.repeat(factor, axis=0).repeat(factor, axis=1)[:height, :width]


def bright_regions(rgb: RgbImage, *, closed: int) -> tuple[Mask, int]:
    """Return the pixels brighter than the support at the working size, with small gaps closed.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        closed: Radius of the closing, working pixels.

    Returns:
        mask: bool `[h', w']`.
        factor: Number of image pixels along each side of a working pixel.
    """
    factor = max(1, round(max(rgb.shape[:2]) / _WORKING_EDGE))
    smooth = Image.fromarray(rgb.max(axis=2)).reduce(factor).filter(ImageFilter.GaussianBlur(_SMOOTHED))
    brightest = np.asarray(smooth)
    return _closed(brightest > _threshold(brightest), closed), factor


def bright_components(rgb: RgbImage, parts: int, most: int) -> list[Mask]:
    """Find the largest regions brighter than the support, with small gaps closed and holes filled.

    Several parts in a picture are smaller than one, and lie closer to each other than twice the closing for one part.
    The closing therefore shrinks with the edge of a part.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        parts: Number of parts in the picture.
        most: Largest number of regions to return.

    Returns:
        The pixels of each region, bool `[h, w]`, largest first; empty if no bright part lies on a darker support.
    """
    height, width = rgb.shape[:2]
    bright, factor = bright_regions(rgb, closed=max(1, round(_CLOSED / parts**0.5)))
    regions, _ = scipy.ndimage.label(bright)
    area = np.bincount(regions.ravel())
    area[0] = 0
    names = [int(name) for name in np.argsort(-area, kind="stable")[:most] if area[name] >= _LEAST_AREA / parts]
    if not names or _rim(np.isin(regions, names)).mean() > _MOST_OF_RIM:
        return []
    small = [_filled(regions == name) for name in names]
    return [mask.repeat(factor, axis=0).repeat(factor, axis=1)[:height, :width] for mask in small]


def _rim(mask: Mask) -> Mask:
    """Return the pixels of the frame of a mask, corners twice."""
    return np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])


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
    grown = _grown(np.pad(mask, radius + 1), radius)
    return ~_grown(~grown, radius)[radius + 1 : -radius - 1, radius + 1 : -radius - 1]


def _grown(mask: Mask, radius: int) -> Mask:
    """Dilate by an octagon, which is nearly a disc and fast: two of five steps reach the diagonal neighbours."""
    for step in range(radius):
        tall = mask.copy()
        tall[1:] |= mask[:-1]
        tall[:-1] |= mask[1:]
        source = tall.copy() if step % 5 in (1, 3) else mask
        tall[:, 1:] |= source[:, :-1]
        tall[:, :-1] |= source[:, 1:]
        mask = tall
    return mask


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
