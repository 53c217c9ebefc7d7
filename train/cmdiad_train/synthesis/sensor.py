"""Noise, blur and missing points of a colour camera and a structured-light 3D sensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from cmdiad_train.synthesis.camera import Vector

DEPTH_NOISE = 0.04
"""Standard deviation of the measured depth in millimetres."""
LARGEST_INCIDENCE = 0.26
"""Cosine of the angle between ray and normal below which the 3D sensor measures no point (75°)."""


def expose(rng: np.random.Generator, radiance: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Convert linear radiance `[h, w, 3]` to an image: vignetting, lens blur, shot and read noise, gamma 2.2.

    Returns:
        uint8 `[h, w, 3]`, RGB order, 0-255.
    """
    picture = gaussian_filter(radiance, (0.5, 0.5, 0)) * _vignetting(radiance.shape[0])
    spread = np.sqrt(np.float32(1.5e-4) * np.maximum(picture, 0) + np.float32(4e-6))
    picture += spread * rng.standard_normal(picture.shape, dtype=np.float32)
    coded = np.clip(picture, 0, 1) ** np.float32(1 / 2.2)
    return np.rint(coded * 255).astype(np.uint8)


def _vignetting(size: int) -> npt.NDArray[np.float32]:
    """Return the fall-off towards the corners, 1 in the middle, 0.86 in a corner, float32 `[h, w, 1]`."""
    offset = np.linspace(-1, 1, size, dtype=np.float32)
    return (1 - 0.07 * (offset[:, None] ** 2 + offset**2))[..., None]


def scan(
    rng: np.random.Generator,
    points: Vector,
    incidence: npt.NDArray[np.float32],
    lit: npt.NDArray[np.float32],
    on_part: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """Return the organised cloud that a structured-light sensor measures.

    Args:
        rng: Random generator.
        points: Ideal points float64 `[h, w, 3]`, mm, camera frame.
        incidence: Cosine between ray and surface normal, float32 `[h, w]`.
        lit: Share of the projector that is visible from each point, 0-1, float32 `[h, w]`.
        on_part: True for pixels on the part, bool `[h, w]`.

    Returns:
        Points float32 `[h, w, 3]` in metres, zeros where nothing was measured.
    """
    shape = incidence.shape
    noise = 0.8 * _white(rng, shape) + 0.6 * _correlated(rng, shape)
    measured = points * (1 + DEPTH_NOISE * noise / points[..., 2])[..., None]
    seen = (lit > 0.5) & (incidence > LARGEST_INCIDENCE)
    seen &= ~_speckle(rng, np.where(on_part, 0.003, 0.03))
    seen &= ~_pinholes(rng, shape[0])
    return np.where(seen[..., None], 1e-3 * measured, 0).astype(np.float32)


def _white(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)


def _correlated(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Draw unit noise that is smoothed by a Gaussian of one pixel, which reduces the deviation to 1 / (2 √π)."""
    return gaussian_filter(_white(rng, shape), 1.0) * np.float32(2 * np.sqrt(np.pi))


def _speckle(rng: np.random.Generator, rate: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Draw single missing pixels, bool `[h, w]`."""
    return rng.random(rate.shape, dtype=np.float32) < rate


def _pinholes(rng: np.random.Generator, size: int) -> npt.NDArray[np.bool_]:
    """Draw about four small round holes anywhere in the image, bool `[h, w]`."""
    row, column = np.ogrid[:size, :size]
    lost = np.zeros((size, size), dtype=np.bool_)
    for _ in range(rng.poisson(4)):
        centre, radius = rng.uniform(0, size, 2), rng.uniform(0.7, 2.2) * size / 320
        lost |= (row - centre[0]) ** 2 + (column - centre[1]) ** 2 < radius**2
    return lost
