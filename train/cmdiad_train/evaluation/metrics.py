"""Ranking quality of a detector: area under the ROC curve of images and pixels, and under the PRO curve.

The ROC curve and its area come from scikit-learn, which has no PRO curve.

Arrays of a test set: `masks` `[n, h, w]`, non-zero on defects; `maps` `[n, h, w]`, higher is more anomalous.
Every function raises ValueError for shapes that do not fit, for NaN, and if the test set has no good or no defective
images or pixels to compare.
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
"""Neighbourhood of a pixel: the eight pixels around it in the same mask, none in other masks."""


def auroc(labels: AnyArray, scores: AnyArray) -> float:
    """Compute the area under the ROC curve.

    The area is the share of all pairs of a defective and a good sample in which the defective sample has the higher
    score; a tie counts as one half (Mann-Whitney statistic).

    Args:
        labels: Labels `[n]`, zero for good.
        scores: Scores `[n]`, higher is more anomalous.

    Raises:
        ValueError: All labels are equal, or a score is NaN.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    labels, scores = np.asarray(labels), np.asarray(scores)
    _check_scores(labels, scores)
    defect = labels != 0
    if defect.all() or not defect.any():
        missing = "defective" if not defect.any() else "good"
        raise ValueError(f"AUROC compares good with defective, and none of the {labels.size} labels is {missing}")
    return float(roc_auc_score(defect, _finite(scores)))


def pixel_auroc(masks: AnyArray, maps: AnyArray) -> float:
    """Compute the area under the ROC curve of all pixels of all maps together (P-AUROC).

    Args:
        masks: Masks `[n, h, w]`, non-zero on defects.
        maps: Anomaly maps `[n, h, w]`.

    Raises:
        ValueError: All pixels have the same label, or a map has NaN.
    """
    _check_scores(np.asarray(masks), np.asarray(maps))
    return auroc(np.ravel(masks), np.ravel(maps))


def au_pro(masks: AnyArray, maps: AnyArray, limit: float = 0.3, *, mode: ProMode = "exact") -> float:
    """Compute the area under the PRO curve up to a false positive rate of `limit`, divided by `limit`: 0-1.

    The area is a sum of trapezoids, with linear interpolation at the limit (Bergmann et al., "The MVTec 3D-AD
    Dataset", 2022).

    Args:
        masks: Masks `[n, h, w]`, non-zero on defects.
        maps: Anomaly maps `[n, h, w]`.
        limit: Largest false positive rate, in (0, 1].
        mode: Choice of thresholds, see `pro_curve`.
    """
    check_limit(limit)
    return area_under_pro(*pro_curve(masks, maps, mode=mode), limit)


def area_under_pro(fpr: FloatArray, pro: FloatArray, limit: float) -> float:
    """Compute `au_pro` from a curve, so that one curve serves several limits.

    Args:
        fpr: False positive rates `[points]` from `pro_curve`.
        pro: Per-region overlaps `[points]` from `pro_curve`.
        limit: Largest false positive rate, in (0, 1].
    """
    check_limit(limit)
    end = int(np.searchsorted(fpr, limit, side="left"))  # the first point at or beyond the limit
    step = (limit - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
    at_limit = pro[end - 1] + step * (pro[end] - pro[end - 1])
    area = integrate.trapezoid(np.append(pro[:end], at_limit), np.append(fpr[:end], limit))
    return float(area / limit)


def roc_curve(labels: AnyArray, scores: AnyArray) -> tuple[FloatArray, FloatArray]:
    """Compute the share of good and of defective samples above each threshold.

    Args:
        labels: Labels `[n]`, zero for good; both kinds must occur.
        scores: Scores `[n]`, higher is more anomalous.

    Returns:
        `(fpr, tpr)`, float64 `[distinct scores + 1]` each, from (0, 0) to (1, 1).
    """
    from sklearn import metrics  # slow to import

    labels, scores = np.asarray(labels), np.asarray(scores)
    _check_scores(labels, scores)
    fpr, tpr, _ = metrics.roc_curve(labels != 0, _finite(scores), drop_intermediate=False)
    return fpr, tpr


def pro_curve(masks: AnyArray, maps: AnyArray, *, mode: ProMode = "exact") -> tuple[FloatArray, FloatArray]:
    """Compute the per-region overlap against the false positive rate.

    A region is an 8-connected component of one mask. At a threshold, the overlap of a region is the share of its
    pixels above the threshold, and PRO is the mean overlap of all regions of all masks. The false positive rate is the
    share of pixels above the threshold among the pixels outside all regions.

    Args:
        masks: Masks `[n, h, w]`, non-zero on defects.
        maps: Anomaly maps `[n, h, w]`.
        mode: `"exact"` uses every distinct score as a threshold; `"published"` uses 100 scores of good pixels like the
            published code (method §14), which makes small limits coarse.

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
    """Label the 8-connected components of all masks from 1, 0 outside: int32 `[n, h, w]`. Also return the count."""
    regions, count = ndimage.label(masks != 0, structure=_EIGHT_CONNECTED)
    return regions, int(count)


def check_limit(limit: float) -> None:
    """Raise ValueError unless a limit of AU-PRO is in (0, 1]."""
    if not 0.0 < limit <= 1.0:
        raise ValueError(f"the limit of AU-PRO is in (0, 1], not {limit}")


def _exact_curve(regions: AnyArray, scores: AnyArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Sort all scores once; from the highest down, each pixel adds its share to one of the two rates."""
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


def _finite(scores: AnyArray) -> AnyArray:
    """Return the scores, or their ranks if one is infinite, which scikit-learn does not accept."""
    if np.isfinite(scores).all():
        return scores
    return np.unique(scores, return_inverse=True)[1]


def _last_of_ties(falling: AnyArray) -> AnyArray:
    return np.append(np.flatnonzero(falling[1:] != falling[:-1]), falling.size - 1)


def _published_curve(regions: AnyArray, scores: AnyArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Use good scores at evenly spaced ranks as thresholds and append the point (1, 1) (method §14)."""
    good = np.sort(scores[regions == 0])
    ranks = np.linspace(0, good.size - 1, _PUBLISHED_THRESHOLDS).astype(np.int64)
    thresholds = good[ranks]
    overlap = np.zeros(ranks.size)
    for inside in _scores_by_region(regions, scores, count):
        overlap += 1.0 - np.searchsorted(inside, thresholds, side="right") / inside.size
    fpr = 1.0 - (ranks + 1) / good.size
    return np.append(fpr[::-1], 1.0), np.append(overlap[::-1] / count, 1.0)


def _scores_by_region(regions: AnyArray, scores: AnyArray, count: int) -> list[AnyArray]:
    """Return the scores of each region, sorted."""
    inside = np.flatnonzero(regions)
    order = inside[np.lexsort((scores[inside], regions[inside]))]
    sizes = np.bincount(regions[inside], minlength=count + 1)[1:]
    return np.split(scores[order], np.cumsum(sizes)[:-1])


def _check_scores(labels: AnyArray, scores: AnyArray) -> None:
    if labels.shape != scores.shape:
        raise ValueError(f"labels and scores have one shape, not {labels.shape} and {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: the detector failed on a sample")
