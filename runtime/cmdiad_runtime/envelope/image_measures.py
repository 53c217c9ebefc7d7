"""Measures of the recording conditions of a camera image: exposure, colour order, sharpness and noise.

All measures are taken along a limited number of whole rows and columns at the sensor's resolution. The cost is
therefore bounded by the length of these lines, not by the number of pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.sample import RgbImage

LINES = 64
"""Largest number of rows, and of columns, that are measured."""
QUARTERS = ("red_blue_darkest", "red_blue_darker", "red_blue_brighter", "red_blue_brightest")
"""Names of the means of red minus blue, by quarters of brightness."""

NOISE_DIFFERENCE = 0.3245 * 6**0.5
"""Mean of the smaller half of the absolute second differences of white normal noise with a deviation of 1."""

_SATURATED = 254
_COARSE = 4  # pixels: the distance that differences of neighbours are compared with
_SMALLEST_ENERGY = 1e-3  # squared grey levels; keeps the logarithm of an even picture finite

_Integers = npt.NDArray[np.signedinteger[Any]]


def measure_image(rgb: RgbImage) -> dict[str, float]:
    """Return the measures of an image by name, see `cmdiad_runtime.envelope.names`.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
    """
    height, width = rgb.shape[:2]
    rows = rgb[:: -(-height // LINES)].astype(np.int16)
    columns = rgb[:, :: -(-width // LINES), :].astype(np.int16)
    grey = _grey(rows)
    return {
        **_exposure(grey, rows),
        **_colour(grey, rows),
        **_texture(grey, _grey(columns).T),
    }


def _grey(lines: _Integers) -> _Integers:
    """Return (R + 2G + B) / 4, rounded down, int16 `[lines, pixels]`."""
    return np.asarray((lines[..., 0] + 2 * lines[..., 1] + lines[..., 2]) >> 2)


def _exposure(grey: _Integers, rows: _Integers) -> dict[str, float]:
    low, high = _quantiles(grey)
    brightest = rows.max(axis=2)
    return {
        "dark": low,
        "brightness": float(grey.mean()),
        "bright": high,
        "saturated": float(np.count_nonzero(brightest >= _SATURATED) / brightest.size),
    }


def _colour(grey: _Integers, rows: _Integers) -> dict[str, float]:
    """Return the mean of red minus blue, in the whole and by quarters of brightness, and the share of green.

    The grey level does not change if red and blue are exchanged, so that each quarter keeps its pixels, and each mean
    of red minus blue changes its sign.
    """
    red, green, blue = rows[..., 0], rows[..., 1], rows[..., 2]
    difference = red - blue
    levels = grey.ravel()
    share = np.cumsum(np.bincount(levels)) / levels.size
    sums = np.cumsum(np.bincount(levels, difference.ravel())) / levels.size
    reached = np.interp(np.linspace(0, 1, len(QUARTERS) + 1), [0.0, *share], [0.0, *sums])
    quarters = np.diff(reached) * len(QUARTERS)
    return {
        **{name: float(mean) for name, mean in zip(QUARTERS, quarters, strict=True)},
        "red_blue": float(sums[-1]),
        "green": float(green.mean() - (red.mean() + blue.mean()) / 2),
    }


def _quantiles(values: _Integers) -> tuple[float, float]:
    """Return the 5 % and 95 % quantiles of whole numbers from 0.

    Each number stands for the interval of width 1 around it, so that the quantiles change steadily.
    """
    share = np.cumsum(np.bincount(values.ravel())) / values.size
    low, high = np.interp((0.05, 0.95), [0.0, *share], np.arange(len(share) + 1) - 0.5)
    return float(low), float(high)


def _texture(grey: _Integers, across: _Integers) -> dict[str, float]:
    """Return the sharpness, a ratio of energies in decibels, and the noise in grey levels."""
    fine = coarse = 0.0
    for lines in (grey, across):
        fine += _energy(lines, 1)
        coarse += _energy(lines, _COARSE)
    sharpness = 10 * np.log10((fine + _SMALLEST_ENERGY) / (coarse + _SMALLEST_ENERGY))
    return {"sharpness": float(sharpness), "noise": _noise(grey)}


def _energy(lines: _Integers, distance: int) -> float:
    """Return the mean squared difference of pixels at a distance along lines."""
    if lines.shape[1] <= distance:
        return 0.0
    change = (lines[:, distance:] - lines[:, :-distance]).ravel().astype(np.float32)
    return float(np.einsum("i,i->", change, change) / change.size)


def _noise(grey: _Integers) -> float:
    """Return the mean of the smaller half of the second differences, scaled to the deviation of normal noise.

    The second difference of white noise has √6 times the noise's standard deviation, and the mean of the smaller half
    of the absolute values of a normal variable is 0.3245 standard deviations.
    """
    if grey.shape[1] < 3:
        return 0.0
    change = np.abs(grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:])
    count = np.bincount(change.ravel())
    below = np.minimum(np.cumsum(count), change.size / 2)
    half = np.diff(below, prepend=0.0)
    return float((half * np.arange(len(count))).sum() / (change.size / 2) / NOISE_DIFFERENCE)
