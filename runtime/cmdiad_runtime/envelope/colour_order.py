"""Detection of swapped colour channels: is an image nearer to the training samples with red and blue exchanged?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_NAMES = ("red_blue_low", "red_blue", "red_blue_high")
_LEAST_DIFFERENCE = 0.5  # grey levels between the training samples and their swapped copies


def colour_order(values: Mapping[str, float], typical: Mapping[str, float]) -> float | None:
    """Return the place of an image between typical training images (1) and their swapped copies (-1).

    The measures of red minus blue form a vector. Its place is the projection on the line from the swapped vector to
    the typical vector, so that a darker or more faded picture has a place nearer to 0, but on the same side.

    Args:
        values: Measures of the image.
        typical: Typical measures of the training samples.

    Returns:
        The place, or None if the training samples hardly differ from their swapped copies.
    """
    if any(name not in measures for measures in (values, typical) for name in _NAMES):
        return None
    low, mean, high = (typical[name] for name in _NAMES)
    right, swapped = np.array([low, mean, high]), np.array([-high, -mean, -low])
    axis = (right - swapped) / 2
    length = float(np.linalg.norm(axis))
    if 2 * length < _LEAST_DIFFERENCE:
        return None
    here = np.array([values[name] for name in _NAMES]) - (right + swapped) / 2
    return float(here @ axis) / length**2
