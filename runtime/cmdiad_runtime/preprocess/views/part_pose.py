"""The part in a camera image alone, turned to one pose and cut out: what `plan_view` does with a cloud.

The part is what is brighter than its support. Its turn and place are found by correlation with a template (the mean
of the training parts' outlines and brightnesses), and the image is resampled there at a fixed scale in sensor pixels.
A pose has its middle in sensor pixels, pixel centres at whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image, ImageFilter

from cmdiad_runtime.preprocess.views.template import (
    COARSE_ANGLES,
    TEMPLATE_MARGIN,
    TEMPLATE_SIZE,
    VIEW_MARGIN,
    best_match,
    decode_template,
    encode_template,
    fine_angles,
    halved,
)
from cmdiad_runtime.sample import Mask, RgbImage

_MASK_WEIGHT = 0.25  # of a pixel being covered, beside its brightness
_LEAST_DEVIATION = 10.0  # grey levels: a part of one brightness is not stretched to its noise

_WORKING_EDGE = 400  # pixels: larger images are reduced to about this to find the part; lengths below are in its pixels
_SMOOTHED = 1.5
_CLOSED = 10  # radius: dark grooves up to twice as wide do not cut a part in two
_LEAST_AREA = 100
_LEAST_DIFFERENCE = 20.0  # grey levels between part and support
_MOST_OF_RIM = 0.5  # of the frame's pixels covered: more is no part on a support

_ANTIALIAS = 0.4  # standard deviation of the blur, in steps of the view

_Float = npt.NDArray[np.float64]
_Reduced = tuple[tuple[Image.Image, Image.Image], int]
"""Coverage and brightness of a part as float images, and the factor by which they are smaller than the sensor's."""


@dataclass(frozen=True)
class ImagePose:
    """How a part lies in an image.

    Attributes:
        angle: turn that brings it into the template's direction, radians.
        x: column of its middle, sensor pixels.
        y: row of its middle.
    """

    angle: float
    x: float
    y: float


@dataclass(frozen=True)
class ImageViewSettings:
    """How parts are turned upright and cut out, learnt from the training images.

    Attributes:
        side: length of the view's edge, sensor pixels.
        pitch: of the template, sensor pixels per template pixel.
        template: the mean training part, int8 `[2, 64, 64]` over 127, as base64 text.
    """

    side: float
    pitch: float
    template: str

    @cached_property
    def array(self) -> npt.NDArray[np.float32]:
        """The template, float32 `[2, 64, 64]`; ValueError where the text holds something else."""
        return decode_template(self.template, 2)


def image_foreground(rgb: RgbImage) -> Mask:
    """The part's pixels: the largest region brighter than the support, small gaps closed and holes filled.

    Args:
        rgb: uint8 `[h, w, 3]`, RGB order, 0-255.

    Returns:
        bool `[h, w]`; empty where no bright part lies on a darker support.
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


def find_image_pose(rgb: RgbImage, mask: Mask, template: npt.NDArray[np.float32], pitch: float) -> ImagePose:
    """The turn and shift with the largest correlation with the template: all angles coarsely, then around the best.

    Args:
        rgb: uint8 `[h, w, 3]`, RGB order, 0-255.
        mask: bool `[h, w]`, the part; not empty.
        template: `[2, 64, 64]` of `image_template`.
        pitch: of the template, sensor pixels per template pixel.
    """
    whole = template.astype(np.float64)
    rough = _best_pose(_reduced(rgb, mask, 2 * pitch), _start(mask), halved(whole), 2 * pitch, COARSE_ANGLES)
    return _best_pose(_reduced(rgb, mask, pitch), rough, whole, pitch, fine_angles(rough.angle))


def image_template(
    rgbs: Sequence[RgbImage], masks: Sequence[Mask], pitch: float, *, rounds: int = 3
) -> npt.NDArray[np.float32]:
    """The mean of parts that are turned and moved onto one another, float32 `[2, 64, 64]`: coverage and brightness.

    Args:
        rgbs: images of normal parts, uint8 `[h, w, 3]`.
        masks: their parts, bool `[h, w]`, none empty.
        pitch: of the template, sensor pixels per pixel; its 64 pixels must hold a part in any direction.
        rounds: of finding poses by the mean so far; the first mean is the first part.
    """
    small = [_reduced(rgb, mask, pitch) for rgb, mask in zip(rgbs, masks, strict=True)]
    template = _draw_coarse(small[0], _start(masks[0]), pitch, TEMPLATE_SIZE)
    for _ in range(rounds):
        poses = [find_image_pose(rgb, mask, template, pitch) for rgb, mask in zip(rgbs, masks, strict=True)]
        images = [_draw_coarse(part, pose, pitch, TEMPLATE_SIZE) for part, pose in zip(small, poses, strict=True)]
        template = np.mean(images, axis=0, dtype=np.float32)
    return template


def image_view(rgb: RgbImage, mask: Mask, pose: ImagePose, *, size: int, side: float) -> RgbImage:
    """The part in the template's pose, without its support.

    Colours are averaged over the part's pixels alone, so that its rim does not take on the support's.

    Args:
        rgb: uint8 `[h, w, 3]`, RGB order, 0-255.
        mask: bool `[h, w]`, the part.
        pose: of `find_image_pose`.
        size: rows and columns of the view.
        side: length of its edge, sensor pixels.

    Returns:
        uint8 `[size, size, 3]`, RGB order: 1-255 on the part, 0 off it.
    """
    alpha = mask.astype(np.uint8) * np.uint8(255)
    weighted = Image.fromarray(np.dstack([rgb, alpha])).convert("RGBa")  # colours times coverage
    smooth = weighted.filter(ImageFilter.GaussianBlur(_ANTIALIAS * side / size))
    turned = np.asarray(_turned(smooth, pose, side / size, size).convert("RGBA"))
    return np.where(turned[..., 3:] > 127, np.maximum(turned[..., :3], 1), np.uint8(0))


def to_view(
    rows: npt.NDArray[Any], columns: npt.NDArray[Any], pose: ImagePose, *, size: int, side: float
) -> tuple[_Float, _Float]:
    """Row and column in the view of places in the sensor's image, pixel centres at whole numbers in both.

    With these a map over the view is carried back to the sensor's image.

    Args:
        rows: numbers `[...]`, sensor pixels.
        columns: numbers `[...]`, sensor pixels.
        pose: of `find_image_pose`.
        size: rows and columns of the view.
        side: length of its edge, sensor pixels.

    Returns:
        Two float64 `[...]`, view pixels; places outside the view lie below -0.5 or above size - 0.5.
    """
    c, s = np.cos(pose.angle) * size / side, np.sin(pose.angle) * size / side
    x, y = columns - pose.x, rows - pose.y
    return c * y - s * x + (size - 1) / 2, c * x + s * y + (size - 1) / 2


def learn_image_view(rgbs: Sequence[RgbImage], masks: Sequence[Mask]) -> ImageViewSettings:
    """Template and scale from normal parts: each fits the template in any direction, and the view in the template's.

    Args:
        rgbs: the training images, uint8 `[h, w, 3]`; at least one.
        masks: their parts, bool `[h, w]`, none empty.
    """
    radius = max(_radius(mask) for mask in masks)
    pitch = 2 * TEMPLATE_MARGIN * radius / TEMPLATE_SIZE
    rough = ImageViewSettings(2.0, pitch, encode_template(image_template(rgbs, masks, pitch)))
    poses = [find_image_pose(rgb, mask, rough.array, pitch) for rgb, mask in zip(rgbs, masks, strict=True)]
    reach = max(_reach(mask, pose) for mask, pose in zip(masks, poses, strict=True))
    return ImageViewSettings(2 * VIEW_MARGIN * reach, pitch, rough.template)


def _threshold(brightest: npt.NDArray[np.uint8]) -> float:
    """Half way from the support's mean to Otsu's threshold, so that faces in shadow belong to the part.

    Otsu 1979, "A threshold selection method from gray-level histograms": the largest variance between two classes.
    Above every pixel where the classes hardly differ.
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
    """Gaps up to twice the radius closed, also between the part and nothing at the image's edge."""
    grown = _grown(np.pad(mask, radius + 1), radius)
    return ~_grown(~grown, radius)[radius + 1 : -radius - 1, radius + 1 : -radius - 1]


def _grown(mask: Mask, radius: int) -> Mask:
    """Dilated by an octagon, which is nearly a disc and fast: of five steps two reach the diagonal neighbours."""
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
    regions, _ = scipy.ndimage.label(mask)
    area = np.bincount(regions.ravel())
    area[0] = 0
    return np.asarray((regions == area.argmax()) & mask)


def _filled(mask: Mask) -> Mask:
    """With all that does not reach the image's edge."""
    outside, _ = scipy.ndimage.label(~np.pad(mask, 1))
    return np.asarray(outside != outside[0, 0])[1:-1, 1:-1]


def _start(mask: Mask) -> ImagePose:
    rows, columns = np.nonzero(mask)
    return ImagePose(0.0, float(columns.mean()), float(rows.mean()))


def _reduced(rgb: RgbImage, mask: Mask, pitch: float) -> _Reduced:
    """What poses are found by, at about one pixel per template pixel."""
    grey = rgb.mean(axis=2, dtype=np.float32)
    inside = grey[mask]
    relative = (grey - inside.mean()) / (2 * max(float(inside.std()), _LEAST_DEVIATION))
    factor = max(1, round(pitch))
    channels = _MASK_WEIGHT * mask, np.clip(relative, -1, 1) * mask
    cover, brightness = (Image.fromarray(channel.astype(np.float32)).reduce(factor) for channel in channels)
    return (cover, brightness), factor


def _draw_coarse(part: _Reduced, pose: ImagePose, pitch: float, size: int) -> npt.NDArray[np.float32]:
    """Coverage and brightness in the pose, `[2, size, size]`."""
    images, factor = part
    placed = ImagePose(pose.angle, (pose.x + 0.5) / factor - 0.5, (pose.y + 0.5) / factor - 0.5)
    return np.stack([np.asarray(_turned(image, placed, pitch / factor, size)) for image in images])


def _turned(image: Image.Image, pose: ImagePose, step: float, size: int) -> Image.Image:
    """The image around the pose's middle, turned, one result pixel every `step` pixels; 0 beyond its edge."""
    c, s = step * np.cos(pose.angle), step * np.sin(pose.angle)
    x = pose.x + 0.5 - (c - s) * size / 2  # Pillow counts from the corner of the first pixel
    y = pose.y + 0.5 - (s + c) * size / 2
    return image.transform((size, size), Image.Transform.AFFINE, (c, -s, x, s, c, y), Image.Resampling.BILINEAR)


def _best_pose(part: _Reduced, start: ImagePose, template: _Float, pitch: float, angles: _Float) -> ImagePose:
    def draw(angle: float) -> npt.NDArray[np.float32]:
        return _draw_coarse(part, ImagePose(angle, start.x, start.y), pitch, template.shape[-1])

    angle, rows, columns = best_match(draw, template, angles)
    c, s = pitch * np.cos(angle), pitch * np.sin(angle)
    return ImagePose(angle, float(start.x + c * columns - s * rows), float(start.y + s * columns + c * rows))


def _radius(mask: Mask) -> float:
    """Of the circle around the mean that holds all but one in a thousand of the part's pixels."""
    rows, columns = np.nonzero(mask)
    return float(np.quantile(np.hypot(rows - rows.mean(), columns - columns.mean()), 0.999))


def _reach(mask: Mask, pose: ImagePose) -> float:
    """How far the turned part reaches from the middle along an axis, but for one in a thousand pixels."""
    rows, columns = np.nonzero(mask)
    place = np.concatenate(to_view(rows, columns, pose, size=2, side=2.0)) - 0.5
    return float(np.quantile(np.abs(place), 0.999))
