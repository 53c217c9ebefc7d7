"""Pictures for people: an anomaly map over an image, a point cloud as a grey image, the verdict as a frame.

The colour scale is tied to the threshold and is the same for every part: a good part keeps its colours, and pictures
of different parts can be compared. No verdict depends on these pictures.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image, ImageDraw, ImageFont

from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.marks import bounding_box, draw_contour, hatched, ringed
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.preprocess.work.products import times
from cmdiad_runtime.sample import Mask, RgbImage, Sample, XyzImage
from cmdiad_runtime.support.score_text import compared
from cmdiad_runtime.support.sizes import cloud_fits, image_fits

FloatArray = npt.NDArray[np.float64]

_FIRST_COLOUR = 0.8
"""Multiple of the threshold below which the image stays as it is; distances of good parts reach about this far."""
_LAST_COLOUR = 2.0
"""Multiple of the threshold from which on the colour is strongest."""
_STRONGEST = 0.35
"""Share of colour in the blend at the strong end; well below one half, so that a defect shows through its heat."""
_LCH_ANCHORS = ((0.93, 0.19, 105.0), (0.72, 0.20, 55.0), (0.58, 0.22, 25.0), (0.45, 0.20, 340.0))
"""Oklch lightness, chroma, hue (degrees) of yellow, orange, red, magenta: decreasing lightness, so grey prints work."""
_GREEN = (0, 140, 60)
_RED = (205, 30, 30)
_NO_PICTURE = (240, 320, 3)
"""Shape of the grey area that stands for a sample without a picture."""
_FAR_GREY = 50.0
"""Grey of the farthest measured point; only a missing point is black."""
_LIGHT = np.array([-0.4, -0.4, -0.825])
"""Direction towards the lamp of the hill shading: from the upper left, behind the sensor."""


def _is_picture(array: object, dtype: type) -> bool:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        return False
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        return False
    return image_fits(*array.shape[:2]) if dtype == np.uint8 else cloud_fits(*array.shape[:2])


def anomaly_overlay(image: RgbImage, anomaly_map: npt.NDArray[np.float32], threshold: float) -> RgbImage:
    """Colour an image where the anomaly map is high, on a scale fixed by the threshold.

    Below 0.8 of the threshold the image is returned as it is. Above, a transparent colour fades in from yellow over
    red to magenta, which is reached at twice the threshold. A thin white line with a black edge surrounds the pixels
    at or above the threshold; its width grows with the image.

    Args:
        image: Image uint8 `[h, w, 3]`, RGB order.
        anomaly_map: Map float32 `[H, W]` of any size over the same field of view; resized bilinearly to `[h, w]`.
        threshold: Map threshold, in units of the map.

    Returns:
        New array uint8 `[h, w, 3]`, RGB order.

    Raises:
        ValueError: A shape is wrong, the map is not finite, or the threshold is not positive.
    """
    _check(image, anomaly_map, threshold)
    overlay = image.copy()
    ratio = _resized(anomaly_map, image.shape[:2]) / np.float32(threshold)  # [h, w]
    box = bounding_box(ratio >= _FIRST_COLOUR, 0)
    if box is not None:
        overlay[box] = _heated(image[box], ratio[box])
        draw_contour(overlay, ratio >= 1.0)
    return overlay


def _heated(image: RgbImage, ratio: npt.NDArray[np.float32]) -> RgbImage:
    """Blend colour into an image `[h, w, 3]` where multiples of the threshold `[h, w]` reach the first colour."""
    strength = np.clip((ratio - _FIRST_COLOUR) / (_LAST_COLOUR - _FIRST_COLOUR), 0.0, 1.0)
    colours = _COLOUR_TABLE[np.rint(strength * 255).astype(np.intp)]  # [h, w, 3]
    share = _STRONGEST * np.sqrt(strength)[..., None]
    return np.rint(image + share * (colours - image)).astype(np.uint8)


def draw_overlay(inspection: Inspection) -> RgbImage:
    """Draw the anomaly map, the place of its largest value and the verdict; see `Inspection.overlay`."""
    picture = _picture(inspection.sample)
    pattern = "" if inspection.pattern is None else f"{inspection.pattern}: "
    if inspection.map is None or inspection.view is None:
        return verdict_banner(picture, f"{pattern}NG, not inspected: {inspection.reason}", ok=False)
    overlay = anomaly_overlay(picture, inspection.heatmap(), inspection.map_threshold)
    if inspection.ignored is not None:
        overlay = hatched(overlay, _over_sensor(inspection.ignored, inspection.view))
    overlay = ringed(overlay, largest_place(inspection.map, inspection.view))
    reason = "" if inspection.reason in (None, "score") else f", {inspection.reason}"
    text = f"{pattern}{inspection.verdict} {compared(inspection.score, inspection.threshold, 'thr')}{reason}"
    return verdict_banner(overlay, text, ok=inspection.verdict == "OK")


def largest_place(anomaly_map: npt.NDArray[np.float32], view: PaddedSquare) -> tuple[float, float]:
    """Return row and column of the largest map value, in pixels of the sensor's image.

    A value in the padding belongs to the nearest pixel of the image.

    Args:
        anomaly_map: Map float32 `[size, size]` over the padded square.
        view: Position of that square over the sensor's image.
    """
    rows, columns = view.sensor_pixels(len(anomaly_map))
    below, right = np.unravel_index(int(np.argmax(anomaly_map)), anomaly_map.shape)
    row, column = float(rows[below, 0]), float(columns[0, right])
    return min(max(row, 0.0), view.height - 1.0), min(max(column, 0.0), view.width - 1.0)


def _over_sensor(region: Mask, view: PaddedSquare) -> Mask:
    """Return a region of the padded square, bool `[size, size]`, over the sensor's image, bool `[h, w]`."""
    square = Image.fromarray(region).resize((view.side, view.side), Image.Resampling.NEAREST)
    whole = np.asarray(square, dtype=np.bool_)
    return whole[view.top : view.top + view.height, view.left : view.left + view.width]


def _picture(sample: Sample | None) -> RgbImage:
    """Return the picture of a sample, uint8 `[h, w, 3]`; a grey area if there is none of a usable kind."""
    if sample is not None:
        if _is_picture(sample.rgb, np.uint8):
            return cast("RgbImage", sample.rgb)
        if _is_picture(sample.xyz, np.float32):
            return depth_image(cast("XyzImage", sample.xyz))
    return np.full(_NO_PICTURE, 128, dtype=np.uint8)


def depth_image(xyz: XyzImage) -> RgbImage:
    """Show a point cloud as a grey image: near points are bright, missing ones black, the lamp is at the upper left.

    Args:
        xyz: Cloud float32 `[h, w, 3]`, metres, z away from the sensor, zeros or NaN for missing points.

    Returns:
        uint8 `[h, w, 3]`, three equal channels. Grey spans the 2nd to 98th percentile of z.

    Raises:
        ValueError: The shape is wrong.
    """
    if xyz.ndim != 3 or xyz.shape[2] != 3:
        raise ValueError(f"a cloud has shape [h, w, 3], not {xyz.shape}")
    valid = np.isfinite(xyz).all(axis=-1) & (xyz != 0).all(axis=-1)  # [h, w]
    points = np.where(valid[..., None], xyz, 0.0).astype(np.float64)
    grey = np.where(valid, _nearness(points[..., 2], valid) * _hill_shade(points, valid), 0.0)
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=-1)


def verdict_banner(overlay: RgbImage, text: str, *, ok: bool) -> RgbImage:
    """Draw a thin green or red frame and a small label, such as "OK 0.830 < thr 1.000", into a picture.

    Args:
        overlay: Picture uint8 `[h, w, 3]`, RGB order; not changed.
        text: One short line; cut off at the edge of the picture.
        ok: True for a green frame, False for a red one.

    Returns:
        New array uint8 `[h, w, 3]`, RGB order, of the same size.
    """
    height, width = overlay.shape[:2]
    colour = _GREEN if ok else _RED
    line = max(2, min(height, width) // 120)
    picture = Image.fromarray(overlay)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width - 1, height - 1), outline=colour, width=line)
    font = ImageFont.load_default(size=max(11, height // 28))
    _, _, right, bottom = draw.textbbox((2 * line, line), text, font=font)
    draw.rectangle((0, 0, right + 2 * line, bottom + line), fill=colour)
    draw.text((2 * line, line), text, font=font, fill=(255, 255, 255))
    return np.array(picture, dtype=np.uint8)


def _check(image: RgbImage, anomaly_map: npt.NDArray[np.float32], threshold: float) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is uint8 [h, w, 3], not {image.dtype} {image.shape}")
    if anomaly_map.ndim != 2 or not np.isfinite(anomaly_map).all():
        raise ValueError(f"an anomaly map is finite and [H, W], not {anomaly_map.shape} with NaN or infinity")
    if not (np.isfinite(threshold) and threshold > 0):
        raise ValueError(f"the threshold of an overlay is positive, not {threshold}")


def _resized(anomaly_map: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    picture = Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _colour_table() -> FloatArray:
    """Return 256 colours `[256, 3]`, RGB 0-255, evenly spaced between the anchors in Oklab.

    Oklab and its matrices: B. Ottosson, "A perceptual color space for image processing", 2020.
    """
    lightness, chroma, hue = np.array(_LCH_ANCHORS).T
    corners = np.stack([lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))])  # [3, anchors]
    at = np.linspace(0, corners.shape[1] - 1, 256)
    lab = np.stack([np.interp(at, np.arange(corners.shape[1]), corner) for corner in corners])  # [3, 256]
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    )
    to_linear_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.707614701],
        ]
    )
    linear = np.clip(to_linear_rgb @ (to_lms @ lab) ** 3, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # sRGB curve
    return np.ascontiguousarray(255.0 * encoded.T)


_COLOUR_TABLE = _colour_table()


def _nearness(z: FloatArray, valid: Mask) -> FloatArray:
    """Return the grey of each pixel `[h, w]` without shading: 255 at the near end, `_FAR_GREY` at the far end."""
    if not valid.any():
        return np.zeros_like(z)
    near, far = np.percentile(z[valid], (2, 98))
    depth = np.clip((z - near) / max(far - near, 1e-9), 0.0, 1.0)
    return 255.0 - (255.0 - _FAR_GREY) * depth


def _hill_shade(points: FloatArray, valid: Mask) -> FloatArray:
    """Return the share of light, 0.4 to 1, that each point reflects; 0.8 if a neighbour is missing.

    Lambert's cosine law with the normal from the cross product of central differences, `[h, w]`.
    """
    shade = np.full(valid.shape, 0.8)
    if min(valid.shape) < 3:
        return shade
    along_x = points[1:-1, 2:] - points[1:-1, :-2]  # [h-2, w-2, 3]
    along_y = points[2:, 1:-1] - points[:-2, 1:-1]
    normals = np.cross(along_x, along_y)
    normals *= np.where(normals[..., 2:] > 0, -1.0, 1.0)  # towards the sensor, whichever way x and y run
    length = np.linalg.norm(normals, axis=-1)
    towards_light = times(normals.reshape(-1, 3), (_LIGHT / np.linalg.norm(_LIGHT))[:, None]).reshape(length.shape)
    cosine = towards_light / np.maximum(length, 1e-30)
    surrounded = scipy.ndimage.binary_erosion(valid)[1:-1, 1:-1] & (length > 0)
    shade[1:-1, 1:-1] = np.where(surrounded, 0.4 + 0.6 * np.clip(cosine, 0.0, 1.0), 0.8)
    return shade
