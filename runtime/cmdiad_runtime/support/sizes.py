"""Limits of images and clouds, for files and for arrays of the Python API. The table in docs/formats.md lists them."""

from __future__ import annotations

MAX_PIXELS = 100_000_000
"""Largest image in pixels: 300 MB as RGB."""

MAX_IMAGE_SIDE = 10_000
"""Longest edge of an image in pixels. The preparation pads an image to a square of this edge: 300 MB."""

MAX_CLOUD_SIDE = 8_192
"""Longest edge of a cloud or depth image in points. The preparation pads a cloud to a square of this edge: 800 MB."""

MAX_POINTS = 4096 * 4096
"""Largest cloud or depth image in points, including missing points: 200 MB as float32."""


def image_fits(height: int, width: int) -> bool:
    """Return True if an image is within MAX_PIXELS and MAX_IMAGE_SIDE."""
    return height * width <= MAX_PIXELS and max(height, width) <= MAX_IMAGE_SIDE


def cloud_fits(height: int, width: int) -> bool:
    """Return True if a cloud or depth image is within MAX_POINTS and MAX_CLOUD_SIDE."""
    return height * width <= MAX_POINTS and max(height, width) <= MAX_CLOUD_SIDE


def image_limits() -> str:
    """Return the limits of an image as text, for messages."""
    return _as_text(MAX_PIXELS, MAX_IMAGE_SIDE)


def cloud_limits() -> str:
    """Return the limits of a cloud or depth image as text, for messages."""
    return _as_text(MAX_POINTS, MAX_CLOUD_SIDE)


def _as_text(most: int, side: int) -> str:
    return f"at most {most / 1e6:.3g} million, and at most {side:,} in a row or column"
