"""Distances between features, and the loss of a student (TRD, arXiv 2412.08949)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.detectors.trd.networks.student import StudentOutputs
from cmdiad_train.recipe.trd import Distance


def flat_cosine(features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Return the published distance: 1 - cos of all values of a level as one vector, mean over the batch.

    Args:
        features: Features `[B, C, h, w]` of each level.
        target: Features of the same shapes.

    Returns:
        Sum over the levels, a scalar in at least float32.
    """
    return _sum_of_levels(features, target, lambda a, b: F.cosine_similarity(a.flatten(1), b.flatten(1)))


def pixel_cosine(features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Return the distance that the anomaly map shows: 1 - cos over the channels of a place, mean over places.

    Arguments and result are those of `flat_cosine`.
    """
    return _sum_of_levels(features, target, lambda a, b: F.cosine_similarity(a, b, dim=1))


DISTANCES: dict[Distance, Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]] = {
    "flat": flat_cosine,
    "pixel": pixel_cosine,
}


def student_loss(outputs: StudentOutputs, target: Sequence[Tensor], distance: Distance) -> dict[str, Tensor]:
    """Return the terms of a student's loss by name. The loss is their sum.

    Args:
        outputs: Outputs of the student.
        target: Features of the own teacher, levels 1-3.
        distance: "flat", as published, or "pixel".

    Returns:
        Scalars "raw", "filtered", "amplified" and "fused"; for a student without the other modality only "raw".
    """
    terms = {"raw": outputs.raw}
    if outputs.amplified:
        terms |= {"filtered": outputs.filtered, "amplified": outputs.amplified, "fused": outputs.fused}
    return {name: DISTANCES[distance](features, target) for name, features in terms.items()}


def _sum_of_levels(
    features: Sequence[Tensor], target: Sequence[Tensor], cosine: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    levels = [
        1 - cosine(_at_least_single(a), _at_least_single(b)).mean() for a, b in zip(features, target, strict=True)
    ]
    return torch.stack(levels).sum()


def _at_least_single(features: Tensor) -> Tensor:
    """Return features as float32, because their squares overflow fp16; float64 stays."""
    return features if features.dtype == torch.float64 else features.float()
