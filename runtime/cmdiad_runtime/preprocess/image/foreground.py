"""The part's pixels in a camera image: the part is brighter than its support."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image, ImageFilter

from cmdiad_runtime.sample import Mask, RgbImage

LARGE_EDGE = 1000
"""Pixels: images with a longer edge are reduced or cropped before other work on them."""

_WORKING_EDGE = 400
"""Pixels: larger images are reduced to about this size to find the part; the lengths below refer to that size."""
_SMOOTHED = 1.5
_CLOSED = 10  # radius: dark grooves up to twice as wide do not cut a part in two
_LEAST_AREA = 100
_LEAST_DIFFERENCE = 20.0  # grey levels between part and support
_MOST_OF_RIM = 0.5  # share of the frame's pixels; a region that covers more is no part on a support


@dataclass(frozen=True)
class ImageRegions:
    """Regions of an image that are brighter than its support, at the working size.

    Attributes:
        height: Rows of the image.
        width: Columns of the image.
        factor: Image pixels per working pixel, along each axis.
        labels: Label of each working pixel, int32 `[rows, columns]`; 0 on the support. Small gaps are closed.
        part: The part's working pixels, bool `[rows, columns]`: the largest region with holes filled; all False if
            no bright part lies on a darker support.
    """

    height: int
    width: int
    factor: int
    labels: npt.NDArray[np.int32]
    part: Mask

    @cached_property
    def areas(self) -> npt.NDArray[np.float64]:
        """Return the share of the picture of each region, float64 `[labels]`; 0 for the support."""
        area = np.bincount(self.labels.ravel()) / self.labels.size
        area[0] = 0
        return area

    @cached_property
    def mask(self) -> Mask:
        """Return the part's pixels, bool `[height, width]`."""
        return self.mask_in(slice(0, self.height), slice(0, self.width))

    def region(self, label: int) -> Mask:
        """Return the working pixels of a region with holes filled, bool `[rows, columns]`."""
        return _filled(self.labels == label)

    def mask_in(self, rows: slice, columns: slice) -> Mask:
        """Return the part's pixels in a rectangle whose first row and column are multiples of `factor`."""
        first, left = rows.start // self.factor, columns.start // self.factor
        below, right = -(-rows.stop // self.factor), -(-columns.stop // self.factor)
        part = self.part[first:below, left:right].repeat(self.factor, axis=0).repeat(self.factor, axis=1)
        return part[: rows.stop - rows.start, : columns.stop - columns.start]


def image_regions(rgb: RgbImage, *, parts: int = 1) -> ImageRegions:
    """Find the regions that are brighter than the support, and the part: the largest one.

    Images of more than 1000 pixels along an edge are reduced before the brightest channel is taken, so that the time
    depends on the working size.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        parts: Number of equal parts in the picture. Several parts are smaller than one and closer to each other, so
            smaller gaps are closed.
    """
    height, width = rgb.shape[:2]
    closed = max(1, round(_CLOSED / parts**0.5))
    factor = max(1, round(max(height, width) / _WORKING_EDGE))
    brightest = np.asarray(_brightest(rgb, factor).filter(ImageFilter.GaussianBlur(_SMOOTHED)))
    labels, _ = scipy.ndimage.label(_closed(brightest > _threshold(brightest), closed))
    part = _filled(_largest_region(labels))
    rim = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    if part.sum() < _LEAST_AREA or rim.mean() > _MOST_OF_RIM:
        part = np.zeros_like(part)
    return ImageRegions(height, width, factor, labels, part)


def image_foreground(rgb: RgbImage) -> Mask:
    """Find the part: the largest region brighter than the support, with small gaps closed and holes filled.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.

    Returns:
        The part's pixels, bool `[h, w]`; all False if no bright part lies on a darker support.
    """
    return image_regions(rgb).mask


def _brightest(rgb: RgbImage, factor: int) -> Image.Image:
    """Return the brightest channel of each pixel, reduced by a factor."""
    if max(rgb.shape[:2]) > LARGE_EDGE:
        return Image.fromarray(_largest_channel(np.asarray(Image.fromarray(rgb).reduce(factor))))
    return Image.fromarray(_largest_channel(rgb)).reduce(factor)


def _largest_channel(rgb: RgbImage) -> npt.NDArray[np.uint8]:
    """Return the maximum over the channels, uint8 `[h, w]`; over the last axis NumPy takes ten times as long."""
    largest = np.maximum(rgb[..., 0], rgb[..., 1])
    return np.maximum(largest, rgb[..., 2], out=largest)


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


def _largest_region(labels: npt.NDArray[np.int32]) -> Mask:
    """Return the largest connected region; all False if there is none."""
    area = np.bincount(labels.ravel())
    area[0] = 0
    return np.asarray((labels == area.argmax()) & (labels > 0))


def _filled(mask: Mask) -> Mask:
    """Fill holes: background regions that do not touch the image border."""
    outside, _ = scipy.ndimage.label(~np.pad(mask, 1))
    return np.asarray(outside != outside[0, 0])[1:-1, 1:-1]
