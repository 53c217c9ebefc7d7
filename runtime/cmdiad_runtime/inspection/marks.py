"""Marks that are visible on any picture, because each one is bright next to dark: contour, hatching, ring."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image, ImageDraw

from cmdiad_runtime.sample import Mask, RgbImage

_LINES_PER_SIDE = 400
"""Shorter side of a picture, in widths of a line."""
_HATCH_PERIOD = 9
"""Distance of hatching lines, in widths of a line."""
_HATCH_GREY = 235
_RADII_PER_SIDE = 25
"""Shorter side of a picture, in radii of a ring."""
_LEAST_RADIUS = 8
_TICK = 0.7
"""Length of the four ticks outside of a ring, in radii."""
_SMOOTHING = 4
"""Pixels of the drawing along a pixel of the picture."""


def line_width(picture: RgbImage) -> int:
    """Return the width of a thin line in a picture, in pixels."""
    return max(1, round(min(picture.shape[:2]) / _LINES_PER_SIDE))


def draw_contour(picture: RgbImage, region: Mask) -> None:
    """Draw the inner edge of a region white and the outer edge black.

    Args:
        picture: Picture uint8 `[h, w, 3]`, RGB order; changed in place.
        region: Region bool `[h, w]`.
    """
    line = line_width(picture)
    box = bounding_box(region, line)
    if box is None:
        return
    part, inside = picture[box], region[box]
    outer = scipy.ndimage.binary_dilation(inside, iterations=line) & ~inside
    inner = inside & ~scipy.ndimage.binary_erosion(inside, iterations=line, border_value=1)
    part[outer] = 0
    part[inner] = 255


def bounding_box(region: Mask, margin: int) -> tuple[slice, slice] | None:
    """Return the rows and columns that contain a region `[h, w]` with a margin in pixels; None without a region."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return None
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )


def ringed(picture: RgbImage, place: tuple[float, float]) -> RgbImage:
    """Draw a white ring with four ticks and dark edges around a place, which itself stays visible.

    Args:
        picture: Picture uint8 `[h, w, 3]`, RGB order; not changed.
        place: Row and column of the place, in pixels; it may lie at the edge of the picture.

    Returns:
        New array uint8 `[h, w, 3]`, RGB order.
    """
    line = line_width(picture)
    radius = max(_LEAST_RADIUS, round(min(picture.shape[:2]) / _RADII_PER_SIDE))
    reach = round((1 + _TICK) * radius) + 3 * line
    top, left = round(place[0]) - reach, round(place[1]) - reach
    side = 2 * reach + 1
    centre = place[0] - top + 0.5, place[1] - left + 0.5
    bright = _drawn_ring(side, radius, 1.5 * line, 0, centre)
    dark = _drawn_ring(side, radius, 3.5 * line, line, centre)
    rows = slice(max(0, top), min(picture.shape[0], top + side))
    columns = slice(max(0, left), min(picture.shape[1], left + side))
    crop = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    marked = picture.copy()
    darkened = marked[rows, columns] * (1.0 - dark[crop][..., None])
    share = bright[crop][..., None]
    marked[rows, columns] = np.rint(darkened * (1.0 - share) + 255.0 * share).astype(np.uint8)
    return marked


def _drawn_ring(
    side: int, radius: int, width: float, overhang: int, centre: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """Return the share, 0 to 1, that a ring with ticks covers of each pixel of a square, `[side, side]`."""
    scale = _SMOOTHING
    image = Image.new("L", (side * scale, side * scale))
    draw = ImageDraw.Draw(image)
    y, x = centre[0] * scale, centre[1] * scale
    outer, stroke = (radius + width / 2) * scale, max(1, round(width * scale))
    draw.ellipse((x - outer, y - outer, x + outer, y + outer), outline=255, width=stroke)
    half, start, stop = width * scale / 2, radius * scale, ((1 + _TICK) * radius + overhang) * scale
    for sign in (-1, 1):
        low, high = sorted((sign * start, sign * stop))
        draw.rectangle((x + low, y - half, x + high, y + half), fill=255)
        draw.rectangle((x - half, y + low, x + half, y + high), fill=255)
    smooth = image.resize((side, side), Image.Resampling.BOX)
    return np.asarray(smooth, dtype=np.float32) / np.float32(255)


def hatched(picture: RgbImage, region: Mask) -> RgbImage:
    """Hatch a region that is not inspected: thin diagonal lines, bright next to dark, and a bright outline.

    All lines are half transparent, so the picture stays visible, and a line is visible on any picture.

    Args:
        picture: Picture uint8 `[h, w, 3]`, RGB order; not changed.
        region: Region bool `[H, W]` of any size over the same field of view.

    Returns:
        New array uint8 `[h, w, 3]`, RGB order.
    """
    height, width = picture.shape[:2]
    resized = np.array(Image.fromarray(region).resize((width, height), Image.Resampling.NEAREST), dtype=np.bool_)
    line = line_width(picture)
    rows, columns = np.ogrid[:height, :width]
    phase = (rows + columns) // line % _HATCH_PERIOD
    outline = resized & ~scipy.ndimage.binary_erosion(resized, iterations=line, border_value=1)
    bright, dark = (resized & (phase == 0)) | outline, resized & (phase == 1)
    lit = np.where(bright[..., None], picture // 2 + np.uint8(_HATCH_GREY // 2), picture)
    return np.where((dark & ~outline)[..., None], picture // 2, lit)
