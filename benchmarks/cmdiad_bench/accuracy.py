"""The accuracy of a bundle, as it runs on the line, on a labelled test split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_bench.latency import describe
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.inspector import Inspector
from cmdiad_runtime.sample import Sample
from cmdiad_train.dataset import find_category, list_split
from cmdiad_train.evaluate import evaluate


def measure_accuracy(
    inspector: Inspector, data: Path, category: str | None, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Image AUROC, pixel AUROC, AU-PRO and the verdicts at the bundle's threshold on `data/category/test`.

    Only the files of the bundle's modality are read.

    Raises:
        RunError: the data set has no labelled test split.
    """
    folder, name = find_category(data, category)
    preprocessing = inspector.bundle.preprocessing
    samples = list_split(folder, "test", preprocessing.modalities)
    if len({s.defect == "good" for s in samples}) < 2:
        raise RunError(
            folder / "test",
            found=f"{len(samples)} samples of one kind",
            expected="test/good and at least one defect folder, with masks in gt",
            action="check DATA and --category",
        )
    verdicts: list[str] = []

    def score(sample: Sample) -> tuple[float, npt.NDArray[np.float32]]:
        inspection = inspector.inspect(sample)
        verdicts.append(inspection.verdict)
        return inspection.score, inspection.map

    metrics = evaluate(score, preprocessing, samples, progress)
    rejected = np.array(verdicts) == "NG"
    good = np.array([s.defect == "good" for s in samples])
    return {
        "category": name,
        **metrics,
        "threshold": inspector.bundle.calibration.score_threshold,
        "false_rejects": int((rejected & good).sum()),
        "missed_defects": int((~rejected & ~good).sum()),
        **describe(inspector),
    }
