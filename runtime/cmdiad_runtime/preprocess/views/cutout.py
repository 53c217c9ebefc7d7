"""The part of a large image that contains the part, at a resolution that suffices for the view.

Images of up to 1000 pixels along each edge are used whole and unchanged. Larger ones would cost in proportion to the
sensor's pixels, most of which are support.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cmdiad_runtime.preprocess.image.foreground import LARGE_EDGE, ImageRegions
from cmdiad_runtime.preprocess.views.part_pose import ImagePose
from cmdiad_runtime.sample import Mask, RgbImage

_MARGIN = 8
"""Pixels around the part, in sensor pixels and again after the reduction: the blur of the view reaches less far."""


@dataclass(frozen=True)
class Cutout:
    """A rectangle of an image around its part.

    Attributes:
        rgb: Pixels, uint8 `[h, w, 3]`, RGB order.
        mask: The part's pixels in the rectangle, bool `[h, w]`.
        row: First row of the rectangle, sensor pixels.
        column: First column of the rectangle, sensor pixels.
        step: Sensor pixels per pixel of the rectangle, along each axis.
    """

    rgb: RgbImage
    mask: Mask
    row: int = 0
    column: int = 0
    step: int = 1

    def to_sensor(self, pose: ImagePose) -> ImagePose:
        """Return a pose in the rectangle as a pose in the sensor's image."""
        if (self.row, self.column, self.step) == (0, 0, 1):
            return pose
        x, y = ((place + 0.5) * self.step - 0.5 for place in (pose.x, pose.y))
        return ImagePose(pose.angle, x + self.column, y + self.row)


def cut_around_part(rgb: RgbImage, regions: ImageRegions, *, scale: float = 1.0) -> Cutout:
    """Return the rectangle around the part of a large image, or all of an image of up to 1000 pixels.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        regions: Regions of the image, with a part.
        scale: Sensor pixels per pixel of the view. The rectangle is reduced to no less than half of the pixels that
            the view shows along an edge; 1 keeps the resolution.
    """
    if max(rgb.shape[:2]) <= LARGE_EDGE:
        return Cutout(rgb, regions.mask)
    step = max(1, int(scale / 2))
    rows, columns = (_range(regions, axis, step) for axis in (0, 1))
    cut, mask = rgb[rows, columns], regions.mask_in(rows, columns)
    if step > 1:
        cut = np.asarray(Image.fromarray(np.ascontiguousarray(cut)).reduce(step))
        mask = np.asarray(Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).reduce(step)) > 127
    return Cutout(cut, mask, rows.start, columns.start, step)


def _range(regions: ImageRegions, axis: int, step: int) -> slice:
    """Return the rows (axis 0) or columns (axis 1) of the part with a margin; the first is a multiple of `factor`."""
    covered = np.flatnonzero(regions.part.any(axis=1 - axis))
    margin = -(-_MARGIN * step // regions.factor)
    first = max(0, int(covered[0]) - margin) * regions.factor
    return slice(first, min((int(covered[-1]) + 1 + margin) * regions.factor, (regions.height, regions.width)[axis]))
