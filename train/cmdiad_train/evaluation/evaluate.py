"""The figures of a detector on a test split. Needs no torch: it is told how to score a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare_ground_truth
from cmdiad_runtime.sample import Sample
from cmdiad_train.datasets import GOOD, SampleFiles
from cmdiad_train.evaluation.bootstrap import Interval, image_auroc_interval, pixel_intervals
from cmdiad_train.evaluation.metrics import area_under_pro, auroc, pixel_auroc, pro_curve

Map = npt.NDArray[np.float32]
Scorer = Callable[[Sample], tuple[float, Map]]
"""A sample to its image score and its anomaly map float32 `[size, size]`."""

PRO_LIMITS = {"aupro_30": 0.3, "aupro_10": 0.1, "aupro_5": 0.05, "aupro_1": 0.01}
METRICS = ("image_auroc", "pixel_auroc", *PRO_LIMITS)


@dataclass(frozen=True)
class Outcomes:
    """What a detector made of a test split.

    Attributes:
        files: the `n` samples.
        scores: float64 `[n]`, higher is more anomalous.
        masks: bool `[n, size, size]`, ground truth in the network's view; all False without a mask.
        maps: float32 `[n, size, size]`.
    """

    files: tuple[SampleFiles, ...]
    scores: npt.NDArray[np.float64]
    masks: npt.NDArray[np.bool_]
    maps: Map

    @property
    def defects(self) -> npt.NDArray[np.str_]:
        """The name of each sample's defect, or "good"."""
        return np.array([files.defect for files in self.files])

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Whether it is known which pixels of a sample are defective: good samples and those with a mask."""
        return np.array([files.has_mask for files in self.files])


def evaluate(
    score: Scorer,
    preprocessing: Preprocessing,
    samples: Sequence[SampleFiles],
    report: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """The figures of a test split; see `summarise`."""
    outcomes = collect(score, preprocessing, samples, report)
    return summarise(outcomes.defects, outcomes.scores, outcomes.masks, outcomes.maps, outcomes.known)


def collect(
    score: Scorer,
    preprocessing: Preprocessing,
    samples: Sequence[SampleFiles],
    report: Callable[[str, int, int], None],
) -> Outcomes:
    """Score every sample, and read its mask."""
    scores, maps, masks = [], [], []
    for i, files in enumerate(samples):
        sample = files.read(preprocessing.colour)
        shape = sample.rgb.shape[:2] if sample.rgb is not None else sample.xyz.shape[:2]  # type: ignore[union-attr]
        result, anomaly_map = score(sample)
        scores.append(result)
        maps.append(anomaly_map)
        mask = files.read_mask(shape) if files.has_mask else np.zeros(shape, dtype=bool)
        masks.append(prepare_ground_truth(mask, preprocessing))
        report("inspect test samples", i + 1, len(samples))
    return Outcomes(tuple(samples), np.array(scores, dtype=np.float64), np.stack(masks), np.stack(maps))


def summarise(
    defects: npt.NDArray[np.str_],
    scores: npt.NDArray[np.float64],
    masks: npt.NDArray[np.bool_],
    maps: Map,
    known: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Image AUROC (all, and each defect against good), pixel AUROC and AU-PRO at four limits, with intervals.

    Args:
        defects: `[n]`, names of defects, "good" for the others; both kinds occur.
        scores: `[n]`, higher is more anomalous.
        masks: `[n, h, w]`, ground truth.
        maps: `[n, h, w]`, higher is more anomalous.
        known: `[n]`, whether the sample's mask is to be believed; None believes all. Figures of pixels rest on
            these samples alone.

    Returns:
        The counts `samples`, `good`, `without_mask`; each of `METRICS` or None where the samples do not show it;
        `image_auroc_by_defect`; and `intervals`, per metric the ends of its 95 % interval by bootstrap over
        samples, or None with fewer than two samples of a kind.
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
    """The mean of each metric over classes, every class alike, with its interval.

    The classes' samples are independent, so the distances from figure to interval end add up in squares: Zou &
    Donner, "Construction of confidence limits about effect measures", 2008, equation 3.

    Args:
        summaries: of `summarise`, one per class.

    Returns:
        `classes`, each of `METRICS`, and `intervals`; None where a class has none.
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
    """Figures and intervals of pixels, all None where no pixel, or every one, is defective."""
    names = ("pixel_auroc", *PRO_LIMITS)
    if not masks.any() or masks.all():
        return dict.fromkeys(names), dict.fromkeys(names)
    curve = pro_curve(masks, maps)
    areas = {name: area_under_pro(*curve, limit) for name, limit in PRO_LIMITS.items()}
    found = pixel_intervals(masks, maps, tuple(PRO_LIMITS.values()))
    ends = [None] * len(names) if found is None else [found[0], *found[1]]
    return {"pixel_auroc": pixel_auroc(masks, maps), **areas}, dict(zip(names, ends, strict=True))


def _mean_interval(values: list[float], ends: list[list[float]]) -> list[float]:
    mean = sum(values) / len(values)
    down = math.hypot(*(max(value - low, 0.0) for value, (low, _) in zip(values, ends, strict=True)))
    up = math.hypot(*(max(high - value, 0.0) for value, (_, high) in zip(values, ends, strict=True)))
    return [mean - down / len(values), mean + up / len(values)]
