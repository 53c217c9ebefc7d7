"""The mean training part that poses are found by: how it is matched with a part, and how it is stored.

`plan_view` draws parts from a cloud, `image_view` from an image; both match what they draw here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

TEMPLATE_SIZE = 64
TEMPLATE_MARGIN = 1.1  # of the template around the largest part, in any direction
VIEW_MARGIN = 1.05  # of the view around the largest part, in the template's direction
COARSE_ANGLES: npt.NDArray[np.float64] = np.linspace(0, 2 * np.pi, 48, endpoint=False)

_FINE_ANGLES = np.linspace(-2 / 3, 2 / 3, 9) * (2 * np.pi / len(COARSE_ANGLES))
_LEVELS = 127  # of the stored template; its values lie in -1 to 1

_Float = npt.NDArray[np.float64]


def fine_angles(rough: float) -> _Float:
    """Angles up to two thirds of a coarse step around a rough one, radians."""
    return rough + _FINE_ANGLES


def halved(template: _Float) -> _Float:
    """A template `[C, 64, 64]` at half its resolution, for the coarse angles."""
    half = TEMPLATE_SIZE // 2
    return template.reshape(len(template), half, 2, half, 2).mean(axis=(2, 4))


def best_match(
    draw: Callable[[float], npt.NDArray[np.floating[Any]]], template: _Float, angles: _Float
) -> tuple[float, int, int]:
    """The angle at which a part correlates most with a template, and the rows and columns by which it lies too far.

    Args:
        draw: the part turned by an angle, `[C, size, size]`.
        template: float64 `[C, size, size]`.
        angles: to try, radians.
    """
    size = template.shape[-1]
    drawn = np.stack([draw(float(angle)) for angle in angles])  # [A, C, size, size]
    spectra = scipy.fft.rfft2(drawn) * np.conj(scipy.fft.rfft2(template))
    match = scipy.fft.irfft2(spectra.sum(axis=1), s=(size, size))
    best, down, right = np.unravel_index(int(match.argmax()), match.shape)
    rows, columns = ((int(shift) + size // 2) % size - size // 2 for shift in (down, right))
    return float(angles[best]), rows, columns


def encode_template(template: npt.NDArray[np.float32]) -> str:
    """A template as base64 text of its values in int8 over 127."""
    stored = np.clip(np.rint(template * _LEVELS), -_LEVELS, _LEVELS).astype(np.int8)
    return base64.b64encode(stored.tobytes()).decode("ascii")


def decode_template(text: str, channels: int) -> npt.NDArray[np.float32]:
    """The template of `encode_template`, float32 `[channels, 64, 64]`; ValueError where the text holds another."""
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.int8)
    return values.reshape(channels, TEMPLATE_SIZE, TEMPLATE_SIZE).astype(np.float32) / np.float32(_LEVELS)
