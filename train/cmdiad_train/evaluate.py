"""The figures of a detector on a test split. Needs no torch: it is told how to score a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare_ground_truth
from cmdiad_runtime.sample import Sample
from cmdiad_train.dataset import SampleFiles
from cmdiad_train.metrics import au_pro, auroc, pixel_auroc

Map = npt.NDArray[np.float32]
Scorer = Callable[[Sample], tuple[float, Map]]
"""A sample to its image score and its anomaly map float32 `[size, size]`."""


def evaluate(
    score: Scorer,
    preprocessing: Preprocessing,
    samples: Sequence[SampleFiles],
    report: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Image AUROC (all, and each defect against good), pixel AUROC and AU-PRO at 30 % over a test split."""
    scores, maps, masks = [], [], []
    for i, files in enumerate(samples):
        sample = files.read(preprocessing.colour)
        shape = sample.rgb.shape[:2] if sample.rgb is not None else sample.xyz.shape[:2]  # type: ignore[union-attr]
        result, anomaly_map = score(sample)
        scores.append(result)
        maps.append(anomaly_map)
        masks.append(prepare_ground_truth(files.read_mask(shape), preprocessing))
        report("inspect test samples", i + 1, len(samples))
    defects = np.array([files.defect for files in samples])
    return summarise(defects, np.array(scores), np.stack(masks), np.stack(maps))


def summarise(
    defects: npt.NDArray[np.str_], scores: npt.NDArray[np.float64], masks: npt.NDArray[np.bool_], maps: Map
) -> dict[str, Any]:
    """The figures of `evaluate` from what it collected."""
    labels = defects != "good"
    by_defect = {
        str(defect): auroc(labels[chosen], scores[chosen])
        for defect in sorted(set(defects[labels]))
        for chosen in [(defects == defect) | ~labels]
    }
    return {
        "samples": len(scores),
        "good": int((~labels).sum()),
        "image_auroc": auroc(labels, scores),
        "pixel_auroc": pixel_auroc(masks, maps),
        "aupro_30": au_pro(masks, maps, 0.3),
        "image_auroc_by_defect": by_defect,
    }
