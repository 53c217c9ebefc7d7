"""How well a detector ranks defects: area under the ROC curve of images and pixels, and under the PRO curve.

Arrays of a test set: `masks` `[n, h, w]`, non-zero on defects; `maps` `[n, h, w]`, higher is more anomalous.
Every function raises a `ValueError` for shapes that do not fit, for NaN, and when the test set lacks what
the metric compares (good and defective images, or pixels).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import integrate, ndimage

FloatArray = npt.NDArray[np.float64]
AnyArray = npt.NDArray[Any]
ProMode = Literal["exact", "published"]

_PUBLISHED_THRESHOLDS = 100
_EIGHT_CONNECTED = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])
"""Pixels of one mask are neighbours with their corners too; pixels of different masks never are."""


def auroc(labels: AnyArray, scores: AnyArray) -> float:
    """Area under the ROC curve: the chance that a defect scores higher than a good one, ties counting half.

    The Mann-Whitney statistic: over all pairs of a defect and a good one, the share in which the defect scores
    higher, plus half the share of ties.

    Args:
        labels: `[n]`, zero for good.
        scores: `[n]`, higher is more anomalous.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    _check_scores(labels, scores)
    defect = labels != 0
    defects = int(defect.sum())
    good = defect.size - defects
    if not defects or not good:
        missing = "defective" if good else "good"
        raise ValueError(f"AUROC compares good with defective, and none of the {labels.size} labels is {missing}")
    ascending, found = np.sort(scores[~defect]), np.sort(scores[defect])
    below = int(np.searchsorted(ascending, found, side="left").sum())
    below_or_tied = int(np.searchsorted(ascending, found, side="right").sum())
    return (below + below_or_tied) / (2 * defects * good)


def pixel_auroc(masks: AnyArray, maps: AnyArray) -> float:
    """Area under the ROC curve of all pixels of all maps together (P-AUROC).

    Args:
        masks: `[n, h, w]`, non-zero on defects.
        maps: `[n, h, w]`.
    """
    _check_scores(np.asarray(masks), np.asarray(maps))
    return auroc(np.ravel(masks), np.ravel(maps))


def au_pro(masks: AnyArray, maps: AnyArray, limit: float = 0.3, *, mode: ProMode = "exact") -> float:
    """Area under the PRO curve up to a false positive rate of `limit`, divided by `limit`: 0-1.

    Trapezoids, with linear interpolation at the limit. Defined by Bergmann et al., "The MVTec 3D-AD
    Dataset", 2022.

    Args:
        masks: `[n, h, w]`, non-zero on defects.
        maps: `[n, h, w]`.
        limit: the largest false positive rate that counts, in (0, 1].
        mode: as for `pro_curve`.
    """
    check_limit(limit)
    return area_under_pro(*pro_curve(masks, maps, mode=mode), limit)


def area_under_pro(fpr: FloatArray, pro: FloatArray, limit: float) -> float:
    """`au_pro` from a curve, for several limits of one curve.

    Args:
        fpr: `[points]`, as from `pro_curve`.
        pro: `[points]`, likewise.
        limit: the largest false positive rate that counts, in (0, 1].
    """
    check_limit(limit)
    end = int(np.searchsorted(fpr, limit, side="left"))  # the first point at or beyond the limit
    step = (limit - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
    at_limit = pro[end - 1] + step * (pro[end] - pro[end - 1])
    area = integrate.trapezoid(np.append(pro[:end], at_limit), np.append(fpr[:end], limit))
    return float(area / limit)


def roc_curve(labels: AnyArray, scores: AnyArray) -> tuple[FloatArray, FloatArray]:
    """Share of good and of defective ones above each threshold.

    Args:
        labels: `[n]`, zero for good; both kinds occur.
        scores: `[n]`, higher is more anomalous.

    Returns:
        `(fpr, tpr)`, float64 `[distinct scores + 1]` each, from (0, 0) to (1, 1).
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    _check_scores(labels, scores)
    descending = np.argsort(scores)[::-1]
    defect = labels[descending] != 0
    last_of_tie = _last_of_ties(scores[descending])
    rates = [np.cumsum(kind)[last_of_tie] / kind.sum() for kind in (~defect, defect)]
    return np.append(0.0, rates[0]), np.append(0.0, rates[1])


def pro_curve(masks: AnyArray, maps: AnyArray, *, mode: ProMode = "exact") -> tuple[FloatArray, FloatArray]:
    """Per-region overlap against false positive rate.

    At a threshold, the overlap of one region (8-connected component of one mask) is the share of its
    pixels above the threshold, PRO the mean of that over all regions of all masks, and the false positive
    rate the share of pixels outside all regions above the threshold.

    Args:
        masks: `[n, h, w]`, non-zero on defects.
        maps: `[n, h, w]`.
        mode: `"exact"` takes every distinct score for a threshold; `"published"` takes 100 scores of good
            pixels, as the published code does (REFERENCE §14), which makes small limits coarse.

    Returns:
        `(fpr, pro)`, float64 `[points]` each, ascending, ending at (1, 1). Exact curves start at (0, 0).
    """
    masks, maps = np.asarray(masks), np.asarray(maps)
    _check_scores(masks, maps)
    if masks.ndim != 3:
        raise ValueError(f"masks and maps have the shape [n, h, w], not {masks.shape}")
    regions, count = label_regions(masks)
    if count == 0 or regions.all():
        raise ValueError("PRO compares good with defective pixels, and all masks are alike")
    curve = {"exact": _exact_curve, "published": _published_curve}[mode]
    return curve(regions.ravel(), maps.ravel(), count)


def label_regions(masks: AnyArray) -> tuple[AnyArray, int]:
    """Number the 8-connected components of each mask, int32 `[n, h, w]` from 1 on, 0 outside; and their count."""
    regions, count = ndimage.label(masks != 0, structure=_EIGHT_CONNECTED)
    return regions, int(count)


def check_limit(limit: float) -> None:
    """Raise a `ValueError` for a limit of AU-PRO that is not in (0, 1]."""
    if not 0.0 < limit <= 1.0:
        raise ValueError(f"the limit of AU-PRO is in (0, 1], not {limit}")


def _exact_curve(regions: AnyArray, scores: AnyArray, count: int) -> tuple[FloatArray, FloatArray]:
    """One sort: going down the scores, each pixel adds its share to one of the two rates."""
    descending = np.argsort(scores)[::-1]
    ordered = regions[descending]
    last_of_tie = _last_of_ties(scores[descending])
    outside = np.cumsum(ordered == 0)
    region_share = 1.0 / (count * np.bincount(regions, minlength=count + 1))  # [regions + 1]
    region_share[0] = 0.0
    overlap = np.cumsum(region_share[ordered])
    fpr = np.append(0.0, outside[last_of_tie] / outside[-1])
    pro = np.append(0.0, overlap[last_of_tie] / overlap[-1])
    return fpr, pro


def _last_of_ties(falling: AnyArray) -> AnyArray:
    return np.append(np.flatnonzero(falling[1:] != falling[:-1]), falling.size - 1)


def _published_curve(regions: AnyArray, scores: AnyArray, count: int) -> tuple[FloatArray, FloatArray]:
    """REFERENCE §14: thresholds are good scores at even ranks; the point (1, 1) is added."""
    good = np.sort(scores[regions == 0])
    ranks = np.linspace(0, good.size - 1, _PUBLISHED_THRESHOLDS).astype(np.int64)
    thresholds = good[ranks]
    overlap = np.zeros(ranks.size)
    for inside in _scores_by_region(regions, scores, count):
        overlap += 1.0 - np.searchsorted(inside, thresholds, side="right") / inside.size
    fpr = 1.0 - (ranks + 1) / good.size
    return np.append(fpr[::-1], 1.0), np.append(overlap[::-1] / count, 1.0)


def _scores_by_region(regions: AnyArray, scores: AnyArray, count: int) -> list[AnyArray]:
    """Split the scores by region, each part sorted."""
    inside = np.flatnonzero(regions)
    order = inside[np.lexsort((scores[inside], regions[inside]))]
    sizes = np.bincount(regions[inside], minlength=count + 1)[1:]
    return np.split(scores[order], np.cumsum(sizes)[:-1])


def _check_scores(labels: AnyArray, scores: AnyArray) -> None:
    if labels.shape != scores.shape:
        raise ValueError(f"labels and scores have one shape, not {labels.shape} and {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: the detector failed on a sample")
