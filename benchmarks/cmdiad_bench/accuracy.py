"""Measure the accuracy of a bundle, as it runs on the line, on a labelled test split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_bench.latency import describe
from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import GOOD, Category, open_category
from cmdiad_train.evaluation.evaluate import ScoredSplit, collect, summarise


@dataclass(frozen=True)
class Inspected:
    """Scores, maps and verdicts of a bundle on the test split of one category.

    Attributes:
        category: Category that the samples belong to.
        outcomes: Scores, maps and masks of the `n` samples.
        rejected: bool `[n]`, True for the verdict NG.
    """

    category: Category
    outcomes: ScoredSplit
    rejected: npt.NDArray[np.bool_]


def measure_accuracy(inspector: Inspector, data: Path, category: str | None, reporter: Reporter) -> dict[str, Any]:
    """Measure image AUROC, pixel AUROC, AUPRO and the verdicts at the bundle's threshold on `data/category/test`.

    Only the files of the bundle's modality are read.

    Raises:
        RunError: The data set has no labelled test split.
    """
    return figures(inspector, inspect_test_split(inspector, data, category, reporter))


def inspect_test_split(inspector: Inspector, data: Path, category: str | None, reporter: Reporter) -> Inspected:
    """Inspect every sample of `data/category/test`. Raise the errors of `measure_accuracy`."""
    opened = open_category(data, category)
    preprocessing = inspector.bundle.preprocessing
    samples = opened.split("test", preprocessing.modalities)
    if len({files.defect == GOOD for files in samples}) < 2:
        raise RunError(
            opened.folder / "test",
            found=f"{len(samples)} samples of one kind",
            expected="test/good and at least one defect folder",
            action="check DATA and --category",
        )
    rejected: list[bool] = []

    def score(sample: Sample) -> tuple[float, npt.NDArray[np.float32]]:
        inspection = inspector.inspect(sample)
        if inspection.map is None:
            raise InputError(
                "", found=inspection.message, action="remove the sample", reason=inspection.reason or "internal"
            )
        rejected.append(inspection.verdict == "NG")
        return inspection.score, inspection.map

    outcomes = collect(score, preprocessing, samples, reporter)
    return Inspected(opened, outcomes, np.array(rejected))


def figures(inspector: Inspector, inspected: Inspected) -> dict[str, Any]:
    """Return the figures of `measure_accuracy` for an inspected test split."""
    outcomes, rejected = inspected.outcomes, inspected.rejected
    good = outcomes.defects == GOOD
    return {
        "category": inspected.category.name,
        **summarise(outcomes.defects, outcomes.scores, outcomes.masks, outcomes.maps, outcomes.known),
        "threshold": inspector.bundle.calibration.score_threshold,
        "false_rejects": int((rejected & good).sum()),
        "missed_defects": int((~rejected & ~good).sum()),
        **describe(inspector),
    }
