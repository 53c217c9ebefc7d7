"""Uncertainty of the metrics of a test split: 95 % intervals by resampling whole samples.

Good samples and defects are drawn with replacement, each kind separately, so every resample has both (Efron &
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). A resample is a count per sample, and every metric is
computed from counts: the image AUROC exactly, from the table of all pairs of scores; pixel AUROC and AU-PRO from one
histogram of scores per sample, which a resample only weights and adds up.

scikit-learn is not used here. It sorts all pixels for each resample: 1.6 s for 80 maps of 224×224, so 1000 resamples
would take 27 minutes, while the weighted histograms take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import integrate

from cmdiad_train.evaluation.metrics import AnyArray, FloatArray, check_limit, label_regions

RESAMPLES = 1000
LEVEL = 0.95
BINS = 4096
_BATCH = 50
"""Number of resamples per batch, small enough that their curves stay in the processor's cache."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class PixelHistograms:
    """Histograms of the pixel scores of each sample, from the highest bin to the lowest.

    Attributes:
        outside: Number of pixels outside all regions, float64 `[n, bins]`.
        inside: Number of pixels of defects, float64 `[n, bins]`.
        overlap: Share of each region in each bin, summed over the regions of the sample, float64 `[n, bins]`.
    """

    outside: FloatArray
    inside: FloatArray
    overlap: FloatArray


def image_auroc_interval(labels: AnyArray, scores: AnyArray, *, resamples: int = RESAMPLES) -> Interval | None:
    """Compute the interval of `metrics.auroc`, exact in each resample.

    Args:
        labels: Labels `[n]`, zero for good.
        scores: Scores `[n]`, higher is more anomalous.
        resamples: Number of resamples; the seed is fixed.

    Returns:
        Low and high end, or None with fewer than two good or two defective samples.
    """
    return mean_auroc_interval(labels, np.asarray(scores)[None], resamples=resamples)


def mean_auroc_interval(labels: AnyArray, scores: AnyArray, *, resamples: int = RESAMPLES) -> Interval | None:
    """Compute the interval of the mean `metrics.auroc` of several scorings of the same samples, drawn together.

    Args:
        labels: Labels `[n]`, zero for good.
        scores: Scores of each scoring `[scorings, n]`, higher is more anomalous.
        resamples: Number of resamples; the seed is fixed.

    Returns:
        Low and high end, or None with fewer than two good or two defective samples.
    """
    defect = np.asarray(labels) != 0
    if not _two_of_each(defect):
        return None
    counts = draw_counts(defect, resamples)
    won = np.zeros(resamples)
    for scoring in scores:
        above, below = scoring[defect][:, None], scoring[~defect][None, :]
        wins = (above > below) + 0.5 * (above == below)  # [defects, good]
        won += (counts[:, defect] @ wins * counts[:, ~defect]).sum(axis=1) / wins.size
    return percentiles(won / len(scores))


def pixel_intervals(
    masks: AnyArray, maps: AnyArray, limits: Sequence[float], *, resamples: int = RESAMPLES
) -> tuple[Interval, list[Interval]] | None:
    """Compute the intervals of `metrics.pixel_auroc` and of `metrics.au_pro` at several limits.

    Args:
        masks: Masks `[n, h, w]`, non-zero on defects; samples without a region count as good.
        maps: Anomaly maps `[n, h, w]`, higher is more anomalous.
        limits: Largest false positive rates, each in (0, 1].
        resamples: Number of resamples; the seed is fixed.

    Returns:
        Interval of the pixel AUROC and one interval per limit; None with fewer than two good or two defective samples.
    """
    defect = (np.asarray(masks) != 0).any(axis=(1, 2))
    if not _two_of_each(defect):
        return None
    aurocs, areas = pixel_metrics(pixel_histograms(masks, maps), draw_counts(defect, resamples), limits)
    return percentiles(aurocs), [percentiles(column) for column in areas.T]


def draw_counts(defect: npt.NDArray[np.bool_], resamples: int, *, seed: int = 0) -> FloatArray:
    """Draw how often each resample contains each sample, float64 `[resamples, n]`. The number of each kind is kept."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, defect.size))
    for kind in (defect, ~defect):
        size = int(kind.sum())
        if size:
            counts[:, kind] = rng.multinomial(size, np.full(size, 1 / size), size=resamples)
    return counts


def pixel_histograms(masks: AnyArray, maps: AnyArray, *, bins: int = BINS) -> PixelHistograms:
    """Count the pixels of each sample by score.

    The edges of the bins are scores of good pixels at the false positive rates (j/bins)³. A fifth of the edges lies
    below a rate of 1 %, which decides the tightest AU-PRO. Metrics from bins differ from the exact ones by less than
    0.001 for ten maps of 64×64 (tests/train/evaluation/test_bootstrap.py) and by less than 0.000002 for 331 maps of
    224×224.

    Args:
        masks: Masks `[n, h, w]`, non-zero on defects, not on all pixels.
        maps: Anomaly maps `[n, h, w]`.
        bins: Number of bins.
    """
    masks, maps = np.asarray(masks), np.asarray(maps)
    regions, count = label_regions(masks)
    regions, samples = regions.reshape(len(maps), -1), len(maps)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    edges = _edges(maps.reshape(samples, -1)[regions == 0], bins)
    columns = edges.size + 1
    below = np.searchsorted(edges, maps.reshape(samples, -1), side="left")  # a pixel is above edges[:below]
    place = np.arange(samples)[:, None] * columns + (edges.size - below)

    def histogram(chosen: npt.NDArray[np.bool_], weights: FloatArray | None = None) -> FloatArray:
        counted = np.bincount(place[chosen], weights, minlength=samples * columns)
        return counted.reshape(samples, columns).astype(np.float64)

    inside = regions > 0
    return PixelHistograms(
        outside=histogram(~inside),
        inside=histogram(inside),
        overlap=histogram(inside, 1.0 / sizes[regions[inside]]),
    )


def pixel_metrics(
    histograms: PixelHistograms, counts: FloatArray, limits: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Compute pixel AUROC `[resamples]` and AU-PRO `[resamples, limits]` of samples that occur `counts` times each.

    Args:
        histograms: Histograms of the samples.
        counts: Counts float64 `[resamples, n]`; each row must contain a region and a pixel outside all regions.
        limits: Largest false positive rates, each in (0, 1].
    """
    for limit in limits:
        check_limit(limit)
    aurocs, areas = [], []
    for chosen in _batches(counts):
        fpr = _rates(chosen @ histograms.outside)
        aurocs.append(integrate.trapezoid(_rates(chosen @ histograms.inside), fpr, axis=1))
        pro = _rates(chosen @ histograms.overlap)
        areas.append(_areas(fpr, pro, limits))
    return np.concatenate(aurocs), np.concatenate(areas)


def _two_of_each(defect: npt.NDArray[np.bool_]) -> bool:
    return 2 <= int(defect.sum()) <= defect.size - 2


def percentiles(drawn: FloatArray) -> Interval:
    """Return the interval that contains the share `LEVEL` of resampled values `[resamples]`."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _edges(good: AnyArray, bins: int) -> AnyArray:
    """Return the scores of good pixels at the false positive rates (j/bins)³, ascending `[bins + 1]`."""
    rates = np.linspace(1.0, 0.0, bins + 1) ** 3
    ranks = np.rint((1.0 - rates) * (good.size - 1)).astype(np.int64)
    return np.sort(good)[ranks]


def _batches(counts: FloatArray) -> Iterator[FloatArray]:
    return (counts[start : start + _BATCH] for start in range(0, len(counts), _BATCH))


def _rates(histogram: FloatArray) -> FloatArray:
    """Convert histograms `[b, bins]`, highest bin first, to the share above each edge `[b, bins + 1]`, from 0 to 1."""
    cumulated = np.cumsum(histogram, axis=1)
    return np.pad(cumulated / cumulated[:, -1:], ((0, 0), (1, 0)))


def _areas(fpr: FloatArray, pro: FloatArray, limits: Sequence[float]) -> FloatArray:
    """Compute `metrics.area_under_pro` of each curve `[b, points]` at each limit in one pass, `[b, limits]`."""
    trapezoids = np.diff(fpr, axis=1) * (pro[:, 1:] + pro[:, :-1]) / 2
    area_until = np.pad(np.cumsum(trapezoids, axis=1), ((0, 0), (1, 0)))  # [b, points]
    rows = np.arange(len(fpr))
    areas = []
    for limit in limits:
        end = (fpr < limit).sum(axis=1)  # the first point at or beyond the limit
        before, after, low, high = fpr[rows, end - 1], fpr[rows, end], pro[rows, end - 1], pro[rows, end]
        at_limit = low + (limit - before) / (after - before) * (high - low)
        areas.append((area_until[rows, end - 1] + (limit - before) * (low + at_limit) / 2) / limit)
    return np.stack(areas, axis=1)
