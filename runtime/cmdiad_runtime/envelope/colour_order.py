"""Detection of swapped colour channels: is an image nearer to the training samples with red and blue exchanged?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.envelope.image_measures import QUARTERS

_LEAST_DIFFERENCE = 0.5  # grey levels between the training samples and pictures with red and blue exchanged
_LEAST_VARIANCE = 1.0  # squared grey levels; steadies the weights of few samples


def colour_order(values: Mapping[str, float], weights: Sequence[float]) -> float | None:
    """Return the place of an image between mean training images (1) and the same with red and blue exchanged (-1).

    The means of red minus blue, by quarters of brightness, form a vector whose sign changes with the exchange. The
    place is a weighted sum of the vector. A darker or more faded picture has a place nearer to 0, but on the same
    side.

    Args:
        values: Measures of the image.
        weights: Weights of `colour_weights`; empty if the order cannot be recognised.

    Returns:
        The place, or None without weights or measures of colour.
    """
    if not weights or QUARTERS[0] not in values:
        return None
    return sum(weight * values[name] for weight, name in zip(weights, QUARTERS, strict=True))


def colour_weights(quarters: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Return the weights of the quarters that separate images from swapped images best, scaled to a mean place of 1.

    Fisher's linear discriminant (1936): the inverse covariance times the difference of the means.

    Args:
        quarters: Means of red minus blue of the training samples, float64 `[n, 4]`, n at least 2.

    Returns:
        Four weights, or none if the samples hardly differ from pictures with red and blue exchanged.
    """
    mean = quarters.mean(axis=0)
    if 2 * float(np.abs(mean).max()) < _LEAST_DIFFERENCE:
        return ()
    covariance = np.cov(quarters.T) + _LEAST_VARIANCE * np.eye(len(mean))
    weights = np.linalg.solve(covariance, mean)
    return tuple(map(float, weights / (weights @ mean)))
