"""The pose of a part in a camera image, found by correlation with a template.

The template is the mean of the training parts' outlines and brightnesses. The centre of a pose is given in sensor
pixels, with pixel centres at whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.preprocess.view_settings import TEMPLATE_SIZE, PartSettings, encode_template
from cmdiad_runtime.preprocess.views.template import (
    COARSE_ANGLES,
    TEMPLATE_MARGIN,
    VIEW_MARGIN,
    best_match,
    fine_angles,
    halved,
)
from cmdiad_runtime.sample import Mask, RgbImage

_MASK_WEIGHT = 0.25  # weight of coverage relative to brightness
_LEAST_DEVIATION = 10.0  # grey levels: a part of one brightness is not stretched to its noise

_Float = npt.NDArray[np.float64]
_Channels = tuple[Image.Image, Image.Image]
"""Coverage and brightness of a part as float images."""
_Reduced = tuple[_Channels, int]
"""Coverage and brightness of a part, and the factor by which they are smaller than the sensor's image."""


@dataclass(frozen=True)
class ImagePose:
    """Rotation and position of a part in an image.

    Attributes:
        angle: Rotation relative to the template, radians.
        x: Column of the part's centre, sensor pixels.
        y: Row of the part's centre, sensor pixels.
    """

    angle: float
    x: float
    y: float


def find_image_pose(rgb: RgbImage, mask: Mask, template: npt.NDArray[np.float32], pitch: float) -> ImagePose:
    """Find the pose with the largest correlation with the template: all angles coarsely, then near the best.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        mask: The part's pixels, bool `[h, w]`; not empty.
        template: Template of `image_template`, float32 `[2, 64, 64]`.
        pitch: Size of a template pixel, sensor pixels.
    """
    channels, whole = part_channels(rgb, mask), template.astype(np.float64)
    rough = _best_pose(_reduced(channels, 2 * pitch), _start(mask), halved(whole), 2 * pitch, COARSE_ANGLES)
    return _best_pose(_reduced(channels, pitch), rough, whole, pitch, fine_angles(rough.angle))


def image_template(
    rgbs: Sequence[RgbImage], masks: Sequence[Mask], pitch: float, *, rounds: int = 3
) -> npt.NDArray[np.float32]:
    """Return the mean of aligned parts, float32 `[2, 64, 64]`: coverage and brightness.

    Args:
        rgbs: Images of normal parts, uint8 `[h, w, 3]`.
        masks: The part's pixels in each image, bool `[h, w]`, none empty.
        pitch: Size of a template pixel, sensor pixels; the template must contain a part in any direction.
        rounds: Number of alignments to the mean of the previous round; the first mean is the first part.
    """
    small = [_reduced(part_channels(rgb, mask), pitch) for rgb, mask in zip(rgbs, masks, strict=True)]
    template = _draw_coarse(small[0], _start(masks[0]), pitch, TEMPLATE_SIZE)
    for _ in range(rounds):
        poses = [find_image_pose(rgb, mask, template, pitch) for rgb, mask in zip(rgbs, masks, strict=True)]
        images = [_draw_coarse(part, pose, pitch, TEMPLATE_SIZE) for part, pose in zip(small, poses, strict=True)]
        template = np.mean(images, axis=0, dtype=np.float32)
    return template


def sensor_to_view(
    rows: npt.NDArray[Any], columns: npt.NDArray[Any], pose: ImagePose, *, size: int, side: float
) -> tuple[_Float, _Float]:
    """Return row and column in the view of positions in the sensor's image, pixel centres at whole numbers in both.

    With these positions, a map over the view is resampled over the sensor's image.

    Args:
        rows: Rows `[...]`, sensor pixels.
        columns: Columns `[...]`, sensor pixels.
        pose: Pose of the part.
        size: Rows and columns of the view.
        side: Length of the view's edge, sensor pixels.

    Returns:
        Rows and columns, float64 `[...]` each, view pixels; outside the view they lie below -0.5 or above size - 0.5.
    """
    c, s = np.cos(pose.angle) * size / side, np.sin(pose.angle) * size / side
    x, y = columns - pose.x, rows - pose.y
    return c * y - s * x + (size - 1) / 2, c * x + s * y + (size - 1) / 2


def view_to_sensor(pose: ImagePose, *, size: int, side: float) -> tuple[_Float, _Float]:
    """Return row and column in the sensor's image of each pixel of the view, float64 `[size, size]` each.

    This is the inverse of `sensor_to_view`; with these positions an image is resampled into the view.

    Args:
        pose: Pose of the part.
        size: Rows and columns of the view.
        side: Length of the view's edge, sensor pixels.
    """
    steps = (np.arange(size) - (size - 1) / 2) * side / size
    down, right = np.meshgrid(steps, steps, indexing="ij")
    c, s = np.cos(pose.angle), np.sin(pose.angle)
    return pose.y + s * right + c * down, pose.x + c * right - s * down


def learn_part_settings(rgbs: Sequence[RgbImage], masks: Sequence[Mask]) -> PartSettings:
    """Learn template and scale: every part fits the template in any direction, and the view in the template's pose.

    Args:
        rgbs: Training images, uint8 `[h, w, 3]`; at least one.
        masks: The part's pixels in each image, bool `[h, w]`, none empty.
    """
    radius = max(_radius(mask) for mask in masks)
    pitch = 2 * TEMPLATE_MARGIN * radius / TEMPLATE_SIZE
    rough = PartSettings(2.0, pitch, encode_template(image_template(rgbs, masks, pitch)))
    poses = [find_image_pose(rgb, mask, rough.array, pitch) for rgb, mask in zip(rgbs, masks, strict=True)]
    reach = max(_reach(mask, pose) for mask, pose in zip(masks, poses, strict=True))
    return PartSettings(2 * VIEW_MARGIN * reach, pitch, rough.template)


def template_area(settings: PartSettings) -> float:
    """Return the area of the mean training part, sensor pixels."""
    return float(settings.array[0].sum()) / _MASK_WEIGHT * settings.pitch**2


def _start(mask: Mask) -> ImagePose:
    """Return the unrotated pose at the centroid of a mask."""
    rows, columns = np.nonzero(mask)
    return ImagePose(0.0, float(columns.mean()), float(rows.mean()))


def part_channels(rgb: RgbImage, mask: Mask) -> _Channels:
    """Return coverage and brightness of a part as float images `[h, w]`, both 0 off the part.

    Coverage is 0.25 on the part. Brightness is the distance from the part's mean in two standard deviations, at most 1.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        mask: The part's pixels, bool `[h, w]`; not empty.
    """
    grey = _mean_of_channels(rgb)
    inside = grey[mask]
    relative = (grey - inside.mean()) / (2 * max(float(inside.std()), _LEAST_DEVIATION))
    cover = mask.astype(np.float32)
    return Image.fromarray(np.float32(_MASK_WEIGHT) * cover), Image.fromarray(np.clip(relative, -1, 1) * cover)


def _mean_of_channels(rgb: RgbImage) -> npt.NDArray[np.float32]:
    """Return the mean of the channels, float32 `[h, w]`; `mean` over the last axis takes ten times as long."""
    total = np.add(rgb[..., 0], rgb[..., 1], dtype=np.uint16)
    return np.add(total, rgb[..., 2], out=total).astype(np.float32) / np.float32(3)


def _reduced(channels: _Channels, pitch: float) -> _Reduced:
    """Reduce coverage and brightness to about one pixel per template pixel."""
    factor = max(1, round(pitch))
    cover, brightness = (channel.reduce(factor) for channel in channels)
    return (cover, brightness), factor


def _draw_coarse(part: _Reduced, pose: ImagePose, pitch: float, size: int) -> npt.NDArray[np.float32]:
    """Draw coverage and brightness in a pose, `[2, size, size]`."""
    images, factor = part
    placed = ImagePose(pose.angle, (pose.x + 0.5) / factor - 0.5, (pose.y + 0.5) / factor - 0.5)
    return np.stack([np.asarray(turned(image, placed, pitch / factor, size)) for image in images])


def turned(image: Image.Image, pose: ImagePose, step: float, size: int) -> Image.Image:
    """Resample an image around the centre of a pose, rotated into the template's direction.

    Args:
        image: Pillow image.
        pose: Pose of the part.
        step: Distance of neighbouring result pixels, image pixels.
        size: Rows and columns of the result.

    Returns:
        Pillow image `[size, size]`; 0 beyond the edge of the source.
    """
    c, s = step * np.cos(pose.angle), step * np.sin(pose.angle)
    x = pose.x + 0.5 - (c - s) * size / 2  # Pillow counts from the corner of the first pixel
    y = pose.y + 0.5 - (s + c) * size / 2
    return image.transform((size, size), Image.Transform.AFFINE, (c, -s, x, s, c, y), Image.Resampling.BILINEAR)


def _best_pose(part: _Reduced, start: ImagePose, template: _Float, pitch: float, angles: _Float) -> ImagePose:
    """Return the pose with the largest correlation among some angles, around a starting position."""

    def draw(angle: float) -> npt.NDArray[np.float32]:
        return _draw_coarse(part, ImagePose(angle, start.x, start.y), pitch, template.shape[-1])

    angle, rows, columns = best_match(draw, template, angles)
    c, s = pitch * np.cos(angle), pitch * np.sin(angle)
    return ImagePose(angle, float(start.x + c * columns - s * rows), float(start.y + s * columns + c * rows))


def _radius(mask: Mask) -> float:
    """Return the radius around the centroid that contains 99.9 % of the part's pixels."""
    rows, columns = np.nonzero(mask)
    return float(np.quantile(np.hypot(rows - rows.mean(), columns - columns.mean()), 0.999))


def _reach(mask: Mask, pose: ImagePose) -> float:
    """Return the distance from the centre, along an axis, that contains 99.9 % of the part's coordinates, pixels."""
    rows, columns = np.nonzero(mask)
    position = np.concatenate(sensor_to_view(rows, columns, pose, size=2, side=2.0)) - 0.5
    return float(np.quantile(np.abs(position), 0.999))
