"""Limits of the inspected area, learned from good samples with a stated false-alarm rate.

A limit is that of a further sample from the same normal distribution (prediction interval; Hahn & Meeker, "Statistical
Intervals", 1991, section 4.4), of logarithms where a quantity is a share. Each limit also lies a fixed margin beyond
all training samples, because few samples underestimate the spread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.bundle.threshold import prediction_factor
from cmdiad_runtime.preprocess.inspected_area.background import SPREAD_STEP, Background, BackgroundCells, encode
from cmdiad_runtime.preprocess.inspected_area.measure import PartFacts
from cmdiad_runtime.preprocess.inspected_area.records import PartStatistics

FALSE_ALARM_RATE = 0.001
"""Share of good samples that each limit is expected to reject."""
SECOND_REGION = 0.05
"""Share of the part's area from which on another region counts as a part."""

_MOST_DEVIATIONS = 8.0  # standard deviations: with two or three samples the interval would exclude nothing
_AREA_MARGIN = 1.15
_POSITION_MARGIN = 0.1  # of the picture
_RIM_MARGIN = 0.005
_LEAST_STRAY = 0.002
_LEAST_SHARED = 0.5  # with a smaller limit, the bright region of the image is not the part of the cloud
_CERTAIN_SECOND = 0.3  # of the part's area: smaller regions that come and go are not counted

_LEAST_SPREAD = 1.5  # grey levels
_PRIOR_SAMPLES = 4.0  # weight of the usual spread relative to the samples of a cell
_MOVED = 0.5  # of the difference to neighbouring cells: a cell that is seldom seen may be like its neighbour
_NEAR_QUANTILE = 0.998  # of the deviations next to the part, taken for three standard deviations
_MOST_LEFT_OUT = 64  # samples that are compared with all others
_LEAST_THRESHOLD = 5.0  # standard deviations

_Array = npt.NDArray[np.float64]


def learn_statistics(parts: Sequence[PartFacts]) -> PartStatistics:
    """Learn the limits of number, area and position from the parts of good samples."""
    area = np.array([part.area for part in parts])
    second = np.array([part.regions[1] if len(part.regions) > 1 else 0.0 for part in parts])
    least = max(SECOND_REGION * float(np.median(area)), 1.5 * float(second.max()))
    if least > _CERTAIN_SECOND * float(np.median(area)):
        least = SECOND_REGION * float(np.median(area))
    counts = [part.count(least) for part in parts]
    low, high = (float(np.exp(limit)) for limit in prediction_limits(np.log(np.maximum(area, 1e-6))))
    rim = max(part.rim for part in parts)
    return PartStatistics(
        least_area=least,
        count=(min(counts), max(counts)),
        area=(min(low, float(area.min()) / _AREA_MARGIN), min(1.0, max(high, float(area.max()) * _AREA_MARGIN))),
        row=_position_limits(np.array([part.row for part in parts])),
        column=_position_limits(np.array([part.column for part in parts])),
        rim=min(1.0, 1.5 * rim + _RIM_MARGIN),
    )


def learn_stray(shares: Sequence[float]) -> float:
    """Learn the largest share of stray points from those of good samples."""
    values = np.array(shares)
    limit = float(np.exp(prediction_limits(np.log(values + _LEAST_STRAY))[1])) - _LEAST_STRAY
    return float(np.clip(max(limit, 2 * values.max()), _LEAST_STRAY, 1.0))


def learn_shared(shares: Sequence[float]) -> float | None:
    """Learn the smallest area in which the parts of image and cloud agree from that of good samples.

    Args:
        shares: Shares of `shared_area`, at least two.

    Returns:
        The limit, or None if the parts of good samples do not agree.
    """
    limit = min(prediction_limits(np.array(shares))[0], min(shares) / _AREA_MARGIN)
    return limit if limit >= _LEAST_SHARED else None


def learn_background(cells: Sequence[BackgroundCells]) -> Background | None:
    """Learn the background from the pictures of good samples; None if the pictures differ in shape.

    The threshold comes from the deviations of up to 64 samples from the background of all others.

    Args:
        cells: Background of each sample, at least two.
    """
    if len({sample.near.shape for sample in cells}) > 1:
        return None
    stack = np.stack([sample.colour for sample in cells]).astype(np.float64)  # [samples, rows, columns, 3]
    left_out = np.unique(np.linspace(0, len(stack) - 1, min(len(stack), _MOST_LEFT_OUT)).astype(int))
    pairs = [(cells[i], _model(np.delete(stack, i, axis=0))) for i in left_out]
    levels = [sample.deviations(mean, np.ones_like(spread), 0.0) for sample, (mean, spread) in pairs]
    near = np.concatenate([level[sample.near] for level, (sample, _) in zip(levels, pairs, strict=True)])
    near_spread = float(np.quantile(near, _NEAR_QUANTILE)) / 3 if len(near) else 0.0
    peaks = [float(sample.deviations(mean, spread, near_spread).max()) for sample, (mean, spread) in pairs]
    limit = float(np.exp(prediction_limits(np.log(np.maximum(peaks, 1e-3)))[1]))
    mean, spread = _model(stack)
    return Background(
        rows=mean.shape[0],
        columns=mean.shape[1],
        mean=encode(mean),
        spread=encode(spread / SPREAD_STEP),
        near_spread=near_spread,
        threshold=float(min(max(limit, 1.1 * max(peaks), _LEAST_THRESHOLD), 1e6)),
    )


def prediction_limits(values: _Array, rate: float = FALSE_ALARM_RATE) -> tuple[float, float]:
    """Return the limits that a further value exceeds with a probability of `rate` on each side.

    Args:
        values: Values of at least two samples, `[n]`, of about a normal distribution.
        rate: Probability on each side.
    """
    reach = min(prediction_factor(len(values), rate), _MOST_DEVIATIONS) * float(values.std(ddof=1))
    return float(values.mean()) - reach, float(values.mean()) + reach


def _position_limits(values: _Array) -> tuple[float, float]:
    low, high = prediction_limits(values)
    low, high = min(low, float(values.min()) - _POSITION_MARGIN), max(high, float(values.max()) + _POSITION_MARGIN)
    return max(0.0, low), min(1.0, high)


def _model(stack: _Array) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return mean `[rows, columns, 3]` and spread `[rows, columns]` of cells `[samples, rows, columns, 3]`.

    Cells that are seldom free of the part take most of their spread from the other cells; cells that never are take
    the mean of the nearest one that is.
    """
    seen = ~np.isnan(stack[..., 0])
    count = seen.sum(axis=0)
    filled = np.where(seen[..., None], stack, 0)
    mean = filled.sum(axis=0) / np.maximum(count, 1)[..., None]
    squares = (np.where(seen[..., None], stack - mean, 0) ** 2).sum(axis=0).max(axis=-1)
    known = count > 0
    if not known.any():
        return mean.astype(np.float32), np.full(count.shape, 64.0, dtype=np.float32)
    rows, columns = scipy.ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    mean = mean[rows, columns]
    often = count > 1
    usual = float(np.quantile(squares[often] / (count[often] - 1), 0.75)) if often.any() else 0.0
    brightest, darkest = (f(mean, size=(3, 3, 1)) for f in (scipy.ndimage.maximum_filter, scipy.ndimage.minimum_filter))
    steps = (brightest - darkest).max(axis=-1)
    prior = np.maximum(usual, _LEAST_SPREAD**2) + (_MOVED * steps) ** 2
    variance = (squares + _PRIOR_SAMPLES * prior) / (np.maximum(count - 1, 0) + _PRIOR_SAMPLES)
    spread = np.maximum(np.sqrt(variance), _LEAST_SPREAD)
    spread = np.maximum(spread, 0.7 * scipy.ndimage.maximum_filter(spread, size=3))
    return mean.astype(np.float32), spread.astype(np.float32)
