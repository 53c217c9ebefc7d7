"""Metrics of a detector on a test split. Independent of torch: the caller passes a scoring function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.prepare import prepare_ground_truth
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import GOOD, SampleFiles
from cmdiad_train.evaluation.bootstrap import Interval, image_auroc_interval, pixel_intervals
from cmdiad_train.evaluation.metrics import area_under_pro, auroc, pixel_auroc, pro_curve

Map = npt.NDArray[np.float32]
Scorer = Callable[[Sample], tuple[float, Map]]
"""Function that returns the image score and the anomaly map float32 `[size, size]` of a sample."""

PRO_LIMITS = {"aupro_30": 0.3, "aupro_10": 0.1, "aupro_5": 0.05, "aupro_1": 0.01}
METRICS = ("image_auroc", "pixel_auroc", *PRO_LIMITS)


@dataclass(frozen=True)
class ScoredSplit:
    """Scores and maps of a detector on a test split.

    Attributes:
        files: Files of the `n` samples.
        scores: Image scores float64 `[n]`, higher is more anomalous.
        masks: Ground truth in the network's view, bool `[n, size, size]`; all False for a sample without a mask.
        maps: Anomaly maps float32 `[n, size, size]`.
    """

    files: tuple[SampleFiles, ...]
    scores: npt.NDArray[np.float64]
    masks: npt.NDArray[np.bool_]
    maps: Map

    @property
    def defects(self) -> npt.NDArray[np.str_]:
        """Return the name of each sample's defect, or "good", `[n]`."""
        return np.array([files.defect for files in self.files])

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Return True for each sample whose defective pixels are known: good samples and those with a mask, `[n]`."""
        return np.array([files.has_mask for files in self.files])


def evaluate(
    score: Scorer,
    preprocessing: Preprocessing,
    samples: Sequence[SampleFiles],
    reporter: Reporter,
) -> dict[str, Any]:
    """Score a test split and return its metrics; see `summarise`.

    Args:
        score: Function that scores a sample.
        preprocessing: Preprocessing of the detector.
        samples: Samples of the test split.
        reporter: Receiver of the progress.

    Raises:
        InputError: A sample or its mask cannot be read.
    """
    split = collect(score, preprocessing, samples, reporter)
    return summarise(split.defects, split.scores, split.masks, split.maps, split.known)


def collect(
    score: Scorer,
    preprocessing: Preprocessing,
    samples: Sequence[SampleFiles],
    reporter: Reporter,
) -> ScoredSplit:
    """Score every sample and read its mask.

    Args:
        score: Function that scores a sample.
        preprocessing: Preprocessing of the detector.
        samples: Samples of the test split.
        reporter: Receiver of the progress.

    Raises:
        InputError: A sample or its mask cannot be read.
    """
    scores, maps, masks = [], [], []
    for i, files in enumerate(samples):
        sample = files.read(preprocessing.colour)
        shape = sample.rgb.shape[:2] if sample.rgb is not None else sample.xyz.shape[:2]  # type: ignore[union-attr]
        result, anomaly_map = score(sample)
        scores.append(result)
        maps.append(anomaly_map)
        mask = files.read_mask(shape) if files.has_mask else np.zeros(shape, dtype=bool)
        masks.append(prepare_ground_truth(mask, preprocessing))
        reporter.step("inspect test samples", i + 1, len(samples))
    return ScoredSplit(tuple(samples), np.array(scores, dtype=np.float64), np.stack(masks), np.stack(maps))


def summarise(
    defects: npt.NDArray[np.str_],
    scores: npt.NDArray[np.float64],
    masks: npt.NDArray[np.bool_],
    maps: Map,
    known: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Compute image AUROC (all defects, and each defect against good), pixel AUROC and AU-PRO with intervals.

    Args:
        defects: Names of the defects `[n]`, "good" for good samples; both kinds must occur.
        scores: Image scores `[n]`, higher is more anomalous.
        masks: Ground truth `[n, h, w]`.
        maps: Anomaly maps `[n, h, w]`, higher is more anomalous.
        known: True for each sample whose mask is valid, `[n]`; None if all are. Pixel-level metrics use only these
            samples.

    Returns:
        The counts `samples`, `good` and `without_mask`; each of `METRICS`, or None if the samples do not allow it;
        `image_auroc_by_defect`; and `intervals`, the ends of the 95 % bootstrap interval of each metric, or None with
        fewer than two good or two defective samples.
    """
    labels = defects != GOOD
    known = np.ones(len(scores), dtype=bool) if known is None else known
    by_defect = {
        str(defect): auroc(labels[chosen], scores[chosen])
        for defect in sorted(set(defects[labels]))
        for chosen in [(defects == defect) | ~labels]
    }
    pixels, pixel_ends = _pixel_metrics(masks[known], maps[known])
    ends = {"image_auroc": image_auroc_interval(labels, scores), **pixel_ends}
    return {
        "samples": len(scores),
        "good": int((~labels).sum()),
        "without_mask": int((~known).sum()),
        "image_auroc": auroc(labels, scores),
        **pixels,
        "image_auroc_by_defect": by_defect,
        "intervals": {metric: None if end is None else list(end) for metric, end in ends.items()},
    }


def mean_over_classes(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compute the mean of each metric over classes, with equal weights, and its interval.

    The samples of the classes are independent, so the squared distances from the metric to the end of its interval add
    up (Zou & Donner, "Construction of confidence limits about effect measures", 2008, equation 3).

    Args:
        summaries: Results of `summarise`, one per class.

    Returns:
        The number of `classes`, each of `METRICS`, and `intervals`; a value is None if one class has none.
    """
    means: dict[str, float | None] = {}
    intervals: dict[str, list[float] | None] = {}
    for metric in METRICS:
        values = [summary[metric] for summary in summaries]
        ends = [summary["intervals"][metric] for summary in summaries]
        means[metric] = None if None in values else sum(values) / len(values)
        intervals[metric] = None if None in values or None in ends else _mean_interval(values, ends)
    return {"classes": len(summaries), **means, "intervals": intervals}


def _pixel_metrics(
    masks: npt.NDArray[np.bool_], maps: Map
) -> tuple[dict[str, float | None], dict[str, Interval | None]]:
    """Return pixel-level metrics and intervals, all None if no pixel or every pixel is defective."""
    names = ("pixel_auroc", *PRO_LIMITS)
    if not masks.any() or masks.all():
        return dict.fromkeys(names), dict.fromkeys(names)
    curve = pro_curve(masks, maps)
    areas = {name: area_under_pro(*curve, limit) for name, limit in PRO_LIMITS.items()}
    intervals = pixel_intervals(masks, maps, tuple(PRO_LIMITS.values()))
    ends = [None] * len(names) if intervals is None else [intervals[0], *intervals[1]]
    return {"pixel_auroc": pixel_auroc(masks, maps), **areas}, dict(zip(names, ends, strict=True))


def _mean_interval(values: list[float], ends: list[list[float]]) -> list[float]:
    mean = sum(values) / len(values)
    down = math.hypot(*(max(value - low, 0.0) for value, (low, _) in zip(values, ends, strict=True)))
    up = math.hypot(*(max(high - value, 0.0) for value, (_, high) in zip(values, ends, strict=True)))
    return [mean - down / len(values), mean + up / len(values)]
