"""Template matching: the pose at which a part correlates most with the mean training part.

The top view draws parts from a cloud, the part view from an image; both match their drawings here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.view_settings import TEMPLATE_SIZE

TEMPLATE_MARGIN = 1.1  # the template extends this factor beyond the largest part, in any direction
VIEW_MARGIN = 1.05  # the view extends this factor beyond the largest part, in the template's direction
COARSE_ANGLES: npt.NDArray[np.float64] = np.linspace(0, 2 * np.pi, 48, endpoint=False)

_FINE_ANGLES = np.linspace(-2 / 3, 2 / 3, 9) * (2 * np.pi / len(COARSE_ANGLES))

_Float = npt.NDArray[np.float64]


def fine_angles(rough: float) -> _Float:
    """Return angles up to two thirds of a coarse step around a rough angle, radians."""
    return rough + _FINE_ANGLES


def halved(template: _Float) -> _Float:
    """Return a template `[C, 64, 64]` at half its resolution, `[C, 32, 32]`, for the coarse angles."""
    half = TEMPLATE_SIZE // 2
    return template.reshape(len(template), half, 2, half, 2).mean(axis=(2, 4))


def best_match(
    draw: Callable[[float], npt.NDArray[np.floating[Any]]], template: _Float, angles: _Float
) -> tuple[float, int, int]:
    """Return the angle at which a part correlates most with a template, and its offset in rows and columns.

    Args:
        draw: Function that draws the part turned by an angle in radians, `[C, size, size]`.
        template: Template, float64 `[C, size, size]`.
        angles: Angles to try, float64 `[A]`, radians.
    """
    size = template.shape[-1]
    drawn = np.stack([draw(float(angle)) for angle in angles])  # [A, C, size, size]
    spectra = scipy.fft.rfft2(drawn) * np.conj(scipy.fft.rfft2(template))
    match = scipy.fft.irfft2(spectra.sum(axis=1), s=(size, size))
    best, down, right = np.unravel_index(int(match.argmax()), match.shape)
    rows, columns = ((int(shift) + size // 2) % size - size // 2 for shift in (down, right))
    return float(angles[best]), rows, columns
