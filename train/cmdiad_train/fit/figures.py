"""Figures of a trained detector on the test split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.verdict import deciding_score
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.names import Verdict
from cmdiad_runtime.preprocess.prepare import Prepared, prepare_parts
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import LeftOut
from cmdiad_train.detectors.family import TrainedDetector, as_tensors
from cmdiad_train.evaluation.evaluate import collect
from cmdiad_train.fit.splits import Splits
from cmdiad_train.runs.record import RunRecord


def figures_on_test_split(
    detector: TrainedDetector,
    record: RunRecord,
    splits: Splits,
    calibration: Calibration,
    reporter: Reporter,
) -> tuple[dict[str, Any] | None, tuple[LeftOut, ...]]:
    """Return the figures on the test split, and the samples of the split that could not be inspected.

    There are no figures (None) if the split has no defect that can be inspected. Good samples that were held out stand
    for good test samples if the split has none.

    Args:
        detector: Trained detector.
        record: Record of the run, with the preprocessing of inspection and the score that decides.
        splits: Samples of the training.
        calibration: Threshold and scores of the held-out good samples, of the kind that decides.
        reporter: Receiver of progress, and of lines about samples that could not be inspected.
    """
    if not splits.shows_figures:
        return None, splits.left_out_of("test")

    score, left_out = sample_scorer(detector, record), splits.left_out_of("test")
    split = collect(score, record.preprocessing, splits.test, reporter, left_out, calibration.held_out_scores)
    for line in split.lines():
        reporter.say(line)
    if not split.shows_figures:
        reporter.say("No figures: the test split has no good or no defective sample that can be inspected.")
        return None, split.left_out
    return {**split.summary(), **split.verdicts(calibration.score_threshold)}, split.left_out


def sample_scorer(detector: TrainedDetector, record: RunRecord) -> Callable[[Sample], tuple[float, Any]]:
    """Return a function that computes the deciding score of a sample, and the map float32 `[size, size]`.

    The function raises InputError for a sample that cannot be inspected.

    Args:
        detector: Trained detector.
        record: Record of the run, with the preprocessing of inspection and the score that decides.
    """
    preprocessing, verdict = record.preprocessing, record.recipe.verdict

    def score(sample: Sample) -> tuple[float, Any]:
        parts = guarded(sample.name, lambda: prepare_parts(sample, preprocessing))
        if isinstance(parts, InputError):
            raise parts
        return score_parts(detector, verdict, parts)

    return score


@torch.no_grad()
def score_parts(detector: TrainedDetector, verdict: Verdict, parts: Sequence[Prepared]) -> tuple[float, Any]:
    """Return the deciding score of a sample, and the map float32 `[h, w]` over the image of the sensor.

    Args:
        detector: Trained detector.
        verdict: Score that decides.
        parts: Parts of the sample in prepared form.
    """
    scores, maps = [], []
    for prepared in parts:
        inputs = as_tensors(prepared.inputs)
        result, anomaly_map = detector(*(inputs[name] for name in detector.input_names))
        maps.append(prepared.to_sensor(anomaly_map.numpy()))
        scores.append(deciding_score(verdict, {"score": result.numpy()}, maps[-1]))
    return max(scores), np.max(maps, axis=0)
