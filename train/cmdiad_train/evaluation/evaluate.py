"""Metrics of a detector on a test split. Independent of torch: the caller passes a scoring function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.preprocess.prepare import prepare_ground_truth
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.printable import printable
from cmdiad_runtime.sample import Mask, Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import GOOD, LeftOut, SampleFiles, read_ground_truth
from cmdiad_train.datasets.left_out import count_reasons, describe
from cmdiad_train.evaluation.bootstrap import Interval, image_auroc_interval, pixel_intervals
from cmdiad_train.evaluation.metrics import area_under_pro, auroc, pixel_auroc, pro_curve

Map = npt.NDArray[np.float32]
Scorer = Callable[[Sample], tuple[float, Map]]
"""Function that returns the image score and the anomaly map float32 `[size, size]` of a sample, or raises InputError
for a sample that cannot be inspected."""

PRO_LIMITS = {"aupro_30": 0.3, "aupro_10": 0.1, "aupro_5": 0.05, "aupro_1": 0.01}
METRICS = ("image_auroc", "pixel_auroc", *PRO_LIMITS)


@dataclass(frozen=True)
class ScoredSplit:
    """Scores and maps of a detector on a test split.

    Attributes:
        files: Files of the `n` samples that were scored.
        scores: Image scores float64 `[n]`, higher is more anomalous.
        masks: Ground truth in the network's view, bool `[n, size, size]`; all False for a sample without a mask.
        maps: Anomaly maps float32 `[n, size, size]`.
        known: True for each sample whose defective pixels are known: good samples and those with a usable mask, `[n]`.
        left_out: Samples that could not be scored.
        without_mask: Scored samples of a defect whose mask is missing or cannot be used.
        held_out_scores: Scores of good samples that were held out in training. They stand for good test samples if the
            split has none.
    """

    files: tuple[SampleFiles, ...]
    scores: npt.NDArray[np.float64]
    masks: npt.NDArray[np.bool_]
    maps: Map
    known: npt.NDArray[np.bool_]
    left_out: tuple[LeftOut, ...] = ()
    without_mask: tuple[LeftOut, ...] = ()
    held_out_scores: tuple[float, ...] = ()

    @property
    def defects(self) -> npt.NDArray[np.str_]:
        """Return the name of each scored sample's defect, or "good", `[n]`."""
        return np.array([files.defect for files in self.files], dtype=np.str_)

    @property
    def good_from_training(self) -> tuple[float, ...]:
        """Return the held-out scores that stand for good test samples, or () if the split has good samples."""
        has_good = GOOD in self.defects or any(sample.defect == GOOD for sample in self.left_out)
        return () if has_good else self.held_out_scores

    @property
    def labelled_scores(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Return label (True for a defect) and score of each scored sample and of `good_from_training`, `[m]`."""
        further = np.asarray(self.good_from_training, dtype=np.float64)
        labels = np.concatenate([self.defects != GOOD, np.zeros(len(further), dtype=np.bool_)])
        return labels, np.concatenate([self.scores, further])

    @property
    def shows_figures(self) -> bool:
        """Return True if there are scores of both good samples and defects, without which there are no figures."""
        good = GOOD in self.defects or bool(self.good_from_training)
        return good and bool((self.defects != GOOD).any())

    def summary(self) -> dict[str, Any]:
        """Return the metrics of `summarise`, over the scored samples, and what could not be inspected.

        `samples` and `good` count all samples of the split; `not_inspected` has the number of the good and the
        defective samples without a score, and the number by reason. `held_out_good` is the number of held-out good
        samples that image figures compare the defects with, 0 if there are good test samples.
        """
        scored = summarise(self.defects, self.scores, self.masks, self.maps, self.known, self.good_from_training)
        good = sum(sample.defect == GOOD for sample in self.left_out)
        return {
            **scored,
            "samples": scored["samples"] + len(self.left_out),
            "good": scored["good"] + good,
            "held_out_good": len(self.good_from_training),
            "not_inspected": {
                "good": good,
                "defects": len(self.left_out) - good,
                "reasons": count_reasons(self.left_out),
            },
        }

    def verdicts(self, threshold: float) -> dict[str, int]:
        """Return the numbers of rejected good samples and of missed defects; a sample without a score is rejected."""
        good, above = self.defects == GOOD, self.scores > threshold
        unscored = sum(sample.defect == GOOD for sample in self.left_out)
        return {"false_rejects": int((good & above).sum()) + unscored, "missed_defects": int((~good & ~above).sum())}

    def lines(self) -> Iterator[str]:
        """Yield lines for people about samples without a score and about defects without a usable mask."""
        total = len(self.files) + len(self.left_out)
        yield from describe(self.left_out, total, "test samples", problem="could not be inspected")
        defective = int((self.defects != GOOD).sum())
        drawn = {printable(files.name) for files in self.files if files.ground_truth is not None}
        missing = sum(sample.name not in drawn for sample in self.without_mask)
        if missing:
            without = "all" if missing == defective else f"{missing} of {defective}"
            left = "no pixel figures" if missing == defective else "pixel figures leave them out"
            yield f"{without} defective test samples have no mask: {left}"
        unusable = [sample for sample in self.without_mask if sample.name in drawn]
        problem = "have no usable mask; pixel figures leave them out"
        yield from describe(unusable, defective, "defective test samples", problem=problem)
        if self.good_from_training and defective:
            yield (
                f"no good test samples: image AUROC compares the defects with {len(self.good_from_training)} good "
                "samples that were held out in training and set the threshold"
            )


def collect(
    score: Scorer,
    preprocessing: Preprocessing,
    samples: Sequence[SampleFiles],
    reporter: Reporter,
    left_out: Sequence[LeftOut] = (),
    held_out_scores: Sequence[float] = (),
) -> ScoredSplit:
    """Score every sample and read its mask. Samples that cannot be read or scored are left out and counted.

    Args:
        score: Function that scores a sample.
        preprocessing: Preprocessing of the detector.
        samples: Samples of the test split.
        reporter: Receiver of the progress.
        left_out: Further samples of the split that lack a file.
        held_out_scores: Scores of good samples that were held out in training.
    """
    scored: list[tuple[SampleFiles, float, Map, Mask | None]] = []
    failed: list[LeftOut] = []
    without_mask: list[LeftOut] = []
    for i, files in enumerate(samples):
        try:
            result, anomaly_map, mask = _score_one(score, files, preprocessing)
        except InputError as error:
            failed.append(LeftOut.because(files.name, "test", error))
        else:
            usable = None if isinstance(mask, InputError) else prepare_ground_truth(mask, preprocessing)
            scored.append((files, result, anomaly_map, usable))
            if isinstance(mask, InputError):
                without_mask.append(LeftOut.because(files.name, "test", mask))
        reporter.step("inspect test samples", i + 1, len(samples))
    return ScoredSplit(
        files=tuple(files for files, *_ in scored),
        scores=np.array([result for _, result, *_ in scored], dtype=np.float64),
        masks=_stack([_drawn(mask, drawn.shape) for _, _, drawn, mask in scored], preprocessing.size, np.bool_),
        maps=_stack([drawn for _, _, drawn, _ in scored], preprocessing.size, np.float32),
        known=np.array([mask is not None for *_, mask in scored], dtype=np.bool_),
        left_out=(*left_out, *failed),
        without_mask=tuple(without_mask),
        held_out_scores=tuple(held_out_scores),
    )


def _score_one(score: Scorer, files: SampleFiles, preprocessing: Preprocessing) -> tuple[float, Map, Mask | InputError]:
    """Return score, map and mask of a sample; raises InputError if it cannot be inspected."""
    sample = guarded(files.name, partial(files.read, preprocessing.colour))
    if isinstance(sample, InputError):
        raise sample
    result, anomaly_map = score(sample)
    image = sample.rgb if sample.rgb is not None else sample.xyz
    assert image is not None
    return result, anomaly_map, read_ground_truth(files, (image.shape[0], image.shape[1]))


def _drawn(mask: Mask | None, shape: tuple[int, ...]) -> Mask:
    return np.zeros(shape, dtype=np.bool_) if mask is None else mask


def _stack(arrays: Sequence[npt.NDArray[Any]], size: int, dtype: type) -> npt.NDArray[Any]:
    """Return arrays `[size, size]` as one array `[n, size, size]`, also if there are none."""
    return np.stack(arrays) if arrays else np.zeros((0, size, size), dtype=dtype)


def summarise(
    defects: npt.NDArray[np.str_],
    scores: npt.NDArray[np.float64],
    masks: npt.NDArray[np.bool_],
    maps: Map,
    known: npt.NDArray[np.bool_] | None = None,
    further_good: Sequence[float] = (),
) -> dict[str, Any]:
    """Compute image AUROC (all defects, and each defect against good), pixel AUROC and AU-PRO with intervals.

    Args:
        defects: Names of the defects `[n]`, "good" for good samples.
        scores: Image scores `[n]`, higher is more anomalous.
        masks: Ground truth `[n, h, w]`.
        maps: Anomaly maps `[n, h, w]`, higher is more anomalous.
        known: True for each sample whose mask is valid, `[n]`; None if all are. Pixel-level metrics use only these
            samples.
        further_good: Scores of further good samples without maps, for the image AUROC.

    Returns:
        The counts `samples`, `good` and `without_mask`; each of `METRICS`, or None if the samples do not allow it;
        `image_auroc_by_defect`; and `intervals`, the ends of the 95 % bootstrap interval of each metric, or None with
        fewer than two good or two defective samples.
    """
    known = np.ones(len(scores), dtype=bool) if known is None else known
    good = int((defects == GOOD).sum())
    names = np.concatenate([defects, np.full(len(further_good), GOOD)])
    values = np.concatenate([scores, np.asarray(further_good, dtype=np.float64)])
    labels = names != GOOD
    both = len(set(labels)) == 2
    by_defect = {
        str(defect): auroc(labels[chosen], values[chosen])
        for defect in (sorted(set(names[labels])) if both else ())
        for chosen in [(names == defect) | ~labels]
    }
    pixels, pixel_ends = _pixel_metrics(masks[known], maps[known])
    ends = {"image_auroc": image_auroc_interval(labels, values) if both else None, **pixel_ends}
    return {
        "samples": len(scores),
        "good": good,
        "without_mask": int((~known).sum()),
        "image_auroc": auroc(labels, values) if both else None,
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
