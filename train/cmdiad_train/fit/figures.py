"""Figures of a trained detector on the test split."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare_parts
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.detectors.family import TrainedDetector, as_tensors
from cmdiad_train.evaluation.evaluate import evaluate
from cmdiad_train.fit.splits import Splits


def figures_on_test_split(
    detector: TrainedDetector, preprocessing: Preprocessing, splits: Splits, reporter: Reporter
) -> dict[str, Any] | None:
    """Return the figures on the test split, or None if it does not have both good samples and defects."""
    if not splits.shows_figures:
        return None

    @torch.no_grad()
    def score(sample: Sample) -> tuple[float, Any]:
        scores, maps = [], []
        for prepared in prepare_parts(sample, preprocessing):
            inputs = as_tensors(prepared.inputs)
            result, anomaly_map = detector(*(inputs[name] for name in detector.input_names))
            scores.append(float(result))
            maps.append(prepared.to_sensor(anomaly_map.numpy()))
        return max(scores), np.max(maps, axis=0)

    return evaluate(score, preprocessing, splits.test, reporter)
