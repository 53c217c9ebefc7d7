"""Objectives of students: reconstruct the teacher's features, use hallucinated ones, or imitate another student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cmdiad_train.detectors.training_features import Features
from cmdiad_train.detectors.trd.fitting.features import Levels
from cmdiad_train.detectors.trd.losses import DISTANCES, student_loss
from cmdiad_train.detectors.trd.networks.student import StudentOutputs
from cmdiad_train.recipe.trd import Distance

DROPPED_SHARE = 0.5
"""Probability with which fine-tuning replaces the features of the other modality of a sample by hallucinated ones."""

RunStudent = Callable[[Levels, Levels | None], StudentOutputs]
"""The student in training: own features, and those of the other modality or None."""


class Objective(Protocol):
    """The loss of a student for a batch of training samples."""

    def loss(self, student: RunStudent, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the mean loss `[]` of the samples with these indices.

        Args:
            student: Student in training.
            chosen: Indices of the samples.
            generator: Source of random draws; None during validation, which draws nothing.
        """


@dataclass(frozen=True)
class Reconstruction:
    """Reconstruct the features of the own teacher (TRD, arXiv 2412.08949).

    Attributes:
        distance: Distance between features.
        own: Features of the own teacher.
        other: Features of the other teacher, or None for a student without the other modality.
    """

    distance: Distance
    own: Features
    other: Features | None = None

    def loss(self, student: RunStudent, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the sum of the published terms; see `Objective`."""
        own = self.own.batch(chosen)
        other = None if self.other is None else self.other.batch(chosen)
        return _published(student(own, other), own, self.distance)


@dataclass(frozen=True)
class DroppedModality:
    """Reconstruct the features of the own teacher while those of the other one are hallucinated now and then.

    Attributes:
        distance: Distance between features.
        own: Features of the own teacher.
        other: Features of the other teacher.
        hallucinated: The same features, hallucinated from the own ones. Validation uses these alone, as inspection.
    """

    distance: Distance
    own: Features
    other: Features
    hallucinated: Features

    def loss(self, student: RunStudent, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the sum of the published terms; see `Objective`."""
        own, other = self.own.batch(chosen), self.hallucinated.batch(chosen)
        if generator is not None:
            dropped = torch.rand(len(chosen), generator=generator) < DROPPED_SHARE
            mask = dropped[:, None, None, None].to(other[0].device)
            pairs = zip(other, self.other.batch(chosen), strict=True)
            other = [torch.where(mask, hallucinated, real) for hallucinated, real in pairs]
        return _published(student(own, other), own, self.distance)


@dataclass(frozen=True)
class Imitation:
    """Reconstruct the features of the own teacher, and those that a student with both modalities reconstructs.

    Attributes:
        distance: Distance between features.
        own: Features of the own teacher.
        examples: Reconstructed features to imitate; the mean of their distances is one term.
    """

    distance: Distance
    own: Features
    examples: Sequence[Features]

    def loss(self, student: RunStudent, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the distance to the teacher plus the mean distance to the examples; see `Objective`."""
        own, distance = self.own.batch(chosen), DISTANCES[self.distance]
        fused = student(own, None).fused
        imitated = torch.stack([distance(fused, example.batch(chosen)) for example in self.examples])
        return distance(fused, own) + imitated.mean()


def _published(outputs: StudentOutputs, own: Levels, distance: Distance) -> Tensor:
    """Return the sum of the published terms, `[]`."""
    return torch.stack([*student_loss(outputs, own, distance).values()]).sum()
