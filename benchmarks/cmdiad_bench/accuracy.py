"""The accuracy of a bundle, as it runs on the line, on a labelled test split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_bench.latency import describe
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.sample import Sample
from cmdiad_train.datasets import GOOD, Category, open_category
from cmdiad_train.evaluation.evaluate import Outcomes, collect, summarise

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Inspected:
    """A bundle's outcomes and verdicts on the test split of one category.

    Attributes:
        category: where the samples lie.
        outcomes: scores, maps and masks of the `n` samples.
        rejected: bool `[n]`, verdict NG.
    """

    category: Category
    outcomes: Outcomes
    rejected: npt.NDArray[np.bool_]


def measure_accuracy(inspector: Inspector, data: Path, category: str | None, progress: Progress) -> dict[str, Any]:
    """Image AUROC, pixel AUROC, AU-PRO and the verdicts at the bundle's threshold on `data/category/test`.

    Only the files of the bundle's modality are read.

    Raises:
        RunError: the data set has no labelled test split.
    """
    return figures(inspector, inspect_test_split(inspector, data, category, progress))


def inspect_test_split(inspector: Inspector, data: Path, category: str | None, progress: Progress) -> Inspected:
    """Inspect every sample of `data/category/test`; raises as `measure_accuracy`."""
    found = open_category(data, category)
    preprocessing = inspector.bundle.preprocessing
    samples = found.split("test", preprocessing.modalities)
    if len({files.defect == GOOD for files in samples}) < 2:
        raise RunError(
            found.folder / "test",
            found=f"{len(samples)} samples of one kind",
            expected="test/good and at least one defect folder",
            action="check DATA and --category",
        )
    rejected: list[bool] = []

    def score(sample: Sample) -> tuple[float, npt.NDArray[np.float32]]:
        inspection = inspector.inspect(sample)
        rejected.append(inspection.verdict == "NG")
        return inspection.score, inspection.map

    outcomes = collect(score, preprocessing, samples, progress)
    return Inspected(found, outcomes, np.array(rejected))


def figures(inspector: Inspector, inspected: Inspected) -> dict[str, Any]:
    """What `measure_accuracy` says, from what was inspected."""
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
