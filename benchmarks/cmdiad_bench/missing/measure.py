"""Score every test sample once with each pattern, then combine the scores under each mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_bench.accuracy import unchecked
from cmdiad_bench.missing.protocol import KINDS, MASKS, Kind, patterns_of_mask
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.errors import BundleError, InputError, RunError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.inspection.pattern_inspector import PatternInspector
from cmdiad_runtime.names import MODALITIES, SENSORS, Sensors
from cmdiad_runtime.printable import printable
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import GOOD, Category, open_category
from cmdiad_train.evaluation.bootstrap import mean_auroc_interval
from cmdiad_train.evaluation.metrics import auroc

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PatternScores:
    """Scores and verdicts of all test samples with every pattern.

    Attributes:
        names: Names of the `n` samples.
        defects: Name of the defect of each sample, or "good".
        scores: Normalised scores, float64 `[patterns, n]` in the order of `SENSORS`; NaN if a sample has no score.
        rejected: True for the verdict NG with all checks of the bundle, bool `[patterns, n]`.
    """

    names: tuple[str, ...]
    defects: tuple[str, ...]
    scores: FloatArray
    rejected: BoolArray

    @property
    def defective(self) -> BoolArray:
        """Return True for each defective sample, bool `[n]`."""
        return np.array([defect != GOOD for defect in self.defects], dtype=np.bool_)


def normaliser(calibration: Calibration) -> Callable[[float], float]:
    """Return the function that makes scores of several patterns comparable: 0 is usual for good parts, 1 the threshold.

    The score is shifted by the median of the held-out good samples, and divided by the distance from this median to
    the threshold. Order and verdicts within a pattern stay the same.

    Args:
        calibration: Thresholds and held-out scores of the pattern.

    Raises:
        BundleError: There are no held-out scores, or half of them exceed the threshold.
    """
    held_out = calibration.held_out_scores
    usual = float(np.median(held_out)) if held_out else float("nan")
    spread = calibration.score_threshold - usual
    if not spread > 0:  # False for NaN
        raise BundleError(
            "",
            found="A pattern without held-out scores below the threshold, from which the normaliser of scores follows",
            action="train and export with a lower --false-reject-rate, and more good samples",
        )
    return lambda score: (score - usual) / spread


def measure_missing(
    inspector: PatternInspector, data: Path, category: str | None, rates: Sequence[int], reporter: Reporter
) -> dict[str, Any]:
    """Measure image AUROC and verdicts on `data/category/test` for each kind and rate of missing modalities.

    Args:
        inspector: Open bundle for whichever sensors arrive; must accept identical frames.
        data: Data set whose test samples have image and cloud.
        category: Category of the data set; None if there is only one.
        rates: Percentages of samples that lack a modality.
        reporter: Receiver of progress.

    Raises:
        RunError: The split lacks good or defective samples with image and cloud that can be scored with every pattern.
        BundleError: See `normaliser`.
    """
    opened = open_category(data, category)
    scored = score_patterns(inspector, opened, reporter)
    usable = np.isfinite(scored.scores).all(axis=0)
    if not (usable & scored.defective).any() or not (usable & ~scored.defective).any():
        raise RunError(
            opened.folder / "test",
            found=f"{int(usable.sum())} samples that can be scored with every pattern, all good or all defective",
            expected="good samples and defects with image and cloud",
            action="Add test samples, or check DATA and --category",
        )
    return {
        "category": opened.name,
        "samples": len(scored.names),
        "good": int((~scored.defective).sum()),
        "defects": int(scored.defective.sum()),
        "not_scored": int((~usable).sum()),
        "masks": MASKS,
        "thresholds": {str(one.pattern): one.thresholds[0] for one in inspector.inspectors},
        "rows": [figures(scored, kind, rate) for kind in KINDS for rate in rates],
    }


def score_patterns(inspector: PatternInspector, category: Category, reporter: Reporter) -> PatternScores:
    """Inspect every complete test sample with every pattern; see `measure_missing`."""
    samples = category.usable("test", MODALITIES).samples
    by_pattern = {one.pattern: one for one in inspector.inspectors}
    without_checks = {pattern: unchecked(one) for pattern, one in by_pattern.items()}
    normalise = {pattern: normaliser(one.bundle.calibration) for pattern, one in by_pattern.items()}
    colour = inspector.inspectors[0].bundle.preprocessing.colour
    scores = np.full((len(SENSORS), len(samples)), np.nan)
    rejected = np.ones((len(SENSORS), len(samples)), dtype=np.bool_)
    for i, files in enumerate(samples):
        sample = guarded(files.name, partial(files.read, colour))
        for row, pattern in enumerate(SENSORS):
            if isinstance(sample, InputError):
                break  # Without a score, and rejected.
            measured = _without(sample, pattern)
            inspection = by_pattern[pattern].inspect(measured)
            rejected[row, i] = inspection.reason is not None
            if not inspection.inspected:
                inspection = without_checks[pattern].inspect(measured)
            scores[row, i] = normalise[pattern](inspection.score) if inspection.inspected else np.nan
        reporter.step("inspect test samples", i + 1, len(samples))
    return PatternScores(
        tuple(printable(files.name) for files in samples), tuple(files.defect for files in samples), scores, rejected
    )


def figures(scored: PatternScores, kind: Kind, rate: int) -> dict[str, Any]:
    """Return the figures of one kind and rate over all masks.

    AUROC compares the samples that have a score with every pattern, so that all rows rest on the same samples. The
    verdicts count every sample.
    """
    usable, defective = np.isfinite(scored.scores).all(axis=0), scored.defective
    columns = np.arange(len(scored.names))
    scores, rejected = [], []
    for seed in range(MASKS):
        patterns = patterns_of_mask(scored.names, scored.defects, kind, rate, seed)
        rows = np.array([SENSORS.index(pattern) for pattern in patterns])
        scores.append(scored.scores[rows, columns])
        rejected.append(scored.rejected[rows, columns])
    labels, chosen = defective[usable], np.array(scores)[:, usable]
    aurocs = [auroc(labels, of_mask) for of_mask in chosen]
    return {
        "kind": kind,
        "rate": rate,
        "image_auroc": float(np.mean(aurocs)),
        "image_auroc_of_masks": aurocs,
        "image_auroc_interval": mean_auroc_interval(labels, chosen),
        "false_rejects": [int((of_mask & ~defective).sum()) for of_mask in rejected],
        "missed_defects": [int((~of_mask & defective).sum()) for of_mask in rejected],
    }


def _without(sample: Sample, pattern: Sensors) -> Sample:
    """Return a sample with the modalities of a pattern alone."""
    return replace(sample, rgb=None if pattern == "xyz" else sample.rgb, xyz=None if pattern == "rgb" else sample.xyz)
