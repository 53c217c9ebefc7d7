"""Normals and albedo of a surface from images of one camera under several lights (photometric stereo).

A matt surface with albedo a and unit normal n appears under distant light k as a · e_k · max(0, n · d_k), where d_k is
the unit direction to the light and e_k its intensity (Woodham 1980). Three lights that lie in no plane determine
g = a · n; more lights are fitted with the least sum of absolute residuals (iteratively reweighted least squares), so
that single highlights and shadows do not count. Dark values (shadows) and saturated values (highlights) are left out
first.

The frame of directions and normals is that of the image: x to the right, y down, z from the part to the camera.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEAST_LIGHTS = 3
MOST_LIGHTS = 32
SHADOW = 0.05
"""A value below this share of the brightest one of the pixel is a shadow."""
SATURATED = 0.995
"""Values from here on are saturated: highlights, or a sensor at its limit."""
LEAST_SPREAD = 0.1
"""Smallest singular value of the light directions that determine a pixel. Lights in one plane have 0."""

_DARK = 1.5 / 255  # below this a pixel has no signal under any light
_ROUNDS = 30
_RESOLUTION = 1e-6  # residuals below this have equal weight
_STRONGEST_ALBEDO = 2.0
_ROWS_AT_ONCE = 1 << 16

_Floats = npt.NDArray[np.float64]


def surface_of(images: npt.NDArray[np.floating], directions: _Floats, intensities: _Floats) -> tuple[_Floats, _Floats]:
    """Return normals and albedo of every pixel.

    Args:
        images: Brightness, float `[lights, h, w]`, linear, 0-1.
        directions: Directions from the part to the lights, float64 `[lights, 3]`, of any length.
        intensities: Intensities of the lights, float64 `[lights]`, positive.

    Returns:
        Unit normals float64 `[h, w, 3]`, and albedo float64 `[h, w]`: the brightness of the surface under a light of
        intensity 1 in the direction of the normal. Both are zero where fewer than three usable lights determine a
        normal that faces the camera.
    """
    lights = directions / np.linalg.norm(directions, axis=1, keepdims=True) * intensities[:, None]  # [lights, 3]
    values = images.reshape(len(images), -1).T.astype(np.float64)  # [pixels, lights]
    blocks = range(0, len(values), _ROWS_AT_ONCE)
    scaled = np.concatenate([_scaled_normals(values[at : at + _ROWS_AT_ONCE], lights) for at in blocks])
    albedo = np.linalg.norm(scaled, axis=1)
    known = (albedo > 0) & (scaled[:, 2] > 0)
    normals = np.where(known[:, None], scaled / np.where(known, albedo, 1)[:, None], 0)
    height, width = images.shape[1:]
    return normals.reshape(height, width, 3), np.where(known, albedo, 0).reshape(height, width)


def encode_normals(normals: _Floats) -> npt.NDArray[np.uint8]:
    """Return normals as an image uint8 `[h, w, 3]`: 127.5 + 127.5 · (x, y, z), and black without a normal."""
    known = normals.any(axis=2, keepdims=True)
    return np.where(known, np.rint(127.5 + 127.5 * normals), 0).astype(np.uint8)


def encode_albedo(albedo: _Floats) -> npt.NDArray[np.uint8]:
    """Return albedo as an image uint8 `[h, w]`: 127.5 for albedo 1, 255 for albedo 2 and more."""
    return np.rint(np.minimum(albedo / _STRONGEST_ALBEDO, 1) * 255).astype(np.uint8)


def spread_of(lights: _Floats) -> float:
    """Return the smallest singular value of light directions float64 `[lights, 3]`; 0 for fewer than three."""
    if len(lights) < LEAST_LIGHTS:
        return 0.0
    unit = lights / np.linalg.norm(lights, axis=1, keepdims=True)
    return float(np.linalg.svd(unit, compute_uv=False)[-1])


def _scaled_normals(values: _Floats, lights: _Floats) -> _Floats:
    """Return albedo times normal of some pixels.

    Args:
        values: Brightness, float64 `[pixels, lights]`.
        lights: Directions times intensities, float64 `[lights, 3]`.

    Returns:
        float64 `[pixels, 3]`, zeros where the usable lights determine nothing.
    """
    usable = _usable(values)
    patterns, pattern_of = np.unique(usable, axis=0, return_inverse=True)  # few: most pixels share a pattern
    determined = np.array([spread_of(lights[pattern]) >= LEAST_SPREAD for pattern in patterns])
    rows = np.flatnonzero(determined[pattern_of.reshape(-1)])
    result = np.zeros((len(values), 3))
    result[rows] = _fit(values[rows], usable[rows].astype(np.float64), lights)
    return result


def _usable(values: _Floats) -> npt.NDArray[np.bool_]:
    """Return False for shadows, highlights and pixels without a signal, bool `[pixels, lights]`."""
    brightest = values.max(axis=1, keepdims=True)
    return (values > SHADOW * brightest) & (values < SATURATED) & (brightest >= _DARK)


def _fit(values: _Floats, usable: _Floats, lights: _Floats) -> _Floats:
    """Return the g float64 `[pixels, 3]` with the least sum of absolute residuals of the usable lights."""
    weights = usable
    scaled = np.zeros((len(values), 3))
    for _ in range(_ROUNDS):
        system = np.einsum("pk,ki,kj->pij", weights, lights, lights, optimize=True)
        target = (weights * values) @ lights
        scaled = np.linalg.solve(system, target[..., None])[..., 0]
        weights = usable / np.maximum(np.abs(values - scaled @ lights.T), _RESOLUTION)
    return scaled
