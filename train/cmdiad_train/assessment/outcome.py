"""Figures of an assessment, from its scores: detected shares, ranking, and differences with their intervals.

All intervals resample whole parts, with all their copies, because the copies of one part resemble each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdiad_train.assessment.defects import DEFECTS
from cmdiad_train.assessment.folds import GOOD, Scores
from cmdiad_train.evaluation.bootstrap import RESAMPLES, Interval, draw_counts, percentiles

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """Figures of one detector.

    Attributes:
        name: Name of the detector.
        detected: Share of the copies with each kind of defect that score above the threshold.
        share: Share of all tampered copies that score above the threshold, each kind with the same weight.
        share_interval: 95 % interval of `share`.
        auroc: Area under the ROC curve of tampered copies against the same samples unchanged.
        auroc_interval: 95 % interval of `auroc`.
        rejected: Number of good samples above the threshold.
    """

    name: str
    detected: Mapping[str, float]
    share: float
    share_interval: Interval
    auroc: float
    auroc_interval: Interval
    rejected: int


@dataclass(frozen=True)
class Difference:
    """Difference of the detected share of two detectors, on the same copies.

    Attributes:
        first: Name of a detector.
        second: Name of the other detector.
        value: `share` of the first minus that of the second.
        interval: 95 % interval of the difference.
    """

    first: str
    second: str
    value: float
    interval: Interval

    @property
    def is_distinguishable(self) -> bool:
        """Return True if the interval does not contain 0."""
        return not self.interval[0] <= 0 <= self.interval[1]


class Outcome:
    """Figures of all detectors, from the scores of all folds.

    Args:
        scores: Scores of all good samples; at least two of them with defects.

    Attributes:
        good: Number of good samples.
        tampered: Number of good samples that were also scored with defects.
        rows: Figures of each detector.
    """

    def __init__(self, scores: Scores) -> None:
        with_defects = np.array([len(copies) > 1 for copies in scores.values()])
        self._scores = scores
        self._counts = draw_counts(np.zeros(len(scores), dtype=np.bool_), RESAMPLES)[:, with_defects]
        self.good = len(scores)
        self.tampered = int(with_defects.sum())
        self._copies = {name: self._of(name) for name in next(iter(scores.values()))[GOOD]}
        self.rows = [self._row(name) for name in self._copies]

    def difference(self, first: str, second: str) -> Difference:
        """Return the difference of the detected share of two detectors."""
        (a, of_a), (b, of_b) = self._share(first), self._share(second)
        return Difference(first, second, a - b, percentiles(of_a - of_b))

    def row(self, name: str) -> Row:
        """Return the figures of a detector."""
        return next(row for row in self.rows if row.name == name)

    def _of(self, detector: str) -> FloatArray:
        """Return the scores of samples with defects `[tampered, 1 + kinds]`, unchanged first; infinite if refused."""
        return np.array(
            [
                [_value(copies[copy][detector]) for copy in (GOOD, *DEFECTS)]
                for copies in self._scores.values()
                if len(copies) > 1
            ]
        )

    def _row(self, name: str) -> Row:
        share, drawn = self._share(name)
        auroc, auroc_drawn = self._auroc(name)
        return Row(
            name,
            dict(zip(DEFECTS, (self._copies[name][:, 1:] > 1).mean(axis=0).tolist(), strict=True)),
            share,
            percentiles(drawn),
            auroc,
            percentiles(auroc_drawn),
            sum(_value(copies[GOOD][name]) > 1 for copies in self._scores.values()),
        )

    def _share(self, name: str) -> tuple[float, FloatArray]:
        """Return the detected share, and that of every resample `[resamples]`."""
        above = (self._copies[name][:, 1:] > 1).mean(axis=1)
        drawn = np.maximum(self._counts.sum(axis=1), 1)
        return float(above.mean()), (self._counts @ above) / drawn

    def _auroc(self, name: str) -> tuple[float, FloatArray]:
        """Return the area under the ROC curve, and that of every resample `[resamples]`."""
        good, changed = self._copies[name][:, 0], self._copies[name][:, 1:]
        wins = ((changed[:, :, None] > good) + 0.5 * (changed[:, :, None] == good)).mean(axis=1)  # [changed, good]
        pairs = np.maximum(np.square(self._counts.sum(axis=1)), 1)
        return float(wins.mean()), ((self._counts @ wins) * self._counts).sum(axis=1) / pairs


def _value(score: float | None) -> float:
    return math.inf if score is None else score


def merged(folds: Sequence[Scores]) -> Scores:
    """Return the scores of all folds, sorted by the name of the sample."""
    return dict(sorted((item for fold in folds for item in fold.items()), key=lambda item: item[0]))
