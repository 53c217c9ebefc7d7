"""Training of one student, resumable at any epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.network_training import SampleTask, Schedule, trained_network
from cmdiad_train.detectors.trd.fitting.features import Levels
from cmdiad_train.detectors.trd.fitting.objectives import Objective
from cmdiad_train.detectors.trd.networks.shapes import TeacherShape
from cmdiad_train.detectors.trd.networks.student import Student, StudentOutputs
from cmdiad_train.recipe import Recipe, trd_part
from cmdiad_train.training.loop import mixed_precision

BETAS = (0.5, 0.999)
"""Decay rates of Adam's moments (TRD, published code)."""


@dataclass(frozen=True)
class Lesson:
    """The training of one student.

    Attributes:
        name: Name in progress reports and of the log.
        file: Safetensors file of the trained student.
        objective: Loss of the student.
        epochs: Passes over the training samples.
        learning_rate: Learning rate of the first epoch.
        samples: Indices of the training samples to learn from.
        following: Number of students that are trained afterwards.
    """

    name: str
    file: Path
    objective: Objective
    epochs: int
    learning_rate: float
    samples: Sequence[int]
    following: int = 0


def new_student(recipe: Recipe, own: TeacherShape, other: TeacherShape | None = None) -> Student:
    """Return an untrained, seeded student; with `other` one that also sees the other modality."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Student(own, other)


def trained_student(context: FitContext, student: Student, lesson: Lesson) -> Student:
    """Train a student, or load what an earlier attempt has finished.

    Args:
        context: The training.
        student: Student with its starting weights.
        lesson: Objective and length of the training.

    Returns:
        The student in eval mode, on the device of the training.

    Raises:
        RunError: The loss is not finite, or the file of a finished student is damaged.
        OutputError: The checkpoint is damaged, or the disk is full.
    """
    schedule = schedule_of(context.recipe, lesson)
    trained_network(context, student, schedule, lambda stopping: StudentTask(context, student, lesson, stopping))
    return student


def schedule_of(recipe: Recipe, lesson: Lesson) -> Schedule:
    """Return the length of a student's training, and the places of its files."""
    part = trd_part(recipe)
    return Schedule(
        lesson.name,
        lesson.file,
        lesson.samples,
        lesson.epochs,
        part.batch,
        batches="full" if part.mode == "faithful" else "even",
        patience=part.patience,
        following=lesson.following,
    )


class StudentTask(SampleTask):
    """The steps of a student's training.

    On CUDA the student is stored channels-last, and unless the recipe is faithful it computes in bfloat16 where that
    is safe (autocast). Losses are float32.

    Args:
        context: The training.
        student: Student in training, which moves to the device of the training.
        lesson: Objective and learning rate.
        stopping: Indices of the samples that choose the best epoch.
    """

    module: Student

    def __init__(self, context: FitContext, student: Student, lesson: Lesson, stopping: Sequence[int]) -> None:
        self.device, self.part, self.lesson = context.device, trd_part(context.recipe), lesson
        student.to(self.device)
        if self.device.type == "cuda":
            student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        optimiser = torch.optim.Adam(student.parameters(), lr=lesson.learning_rate, betas=BETAS)
        super().__init__(student, optimiser, schedule_of(context.recipe, lesson), stopping)

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate of an epoch, which decays exponentially from epoch to epoch."""
        return self.lesson.learning_rate * self.part.decay ** int(start)

    def mean_loss(self, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the mean loss `[]` of some samples; see `SampleTask`."""
        return self.lesson.objective.loss(self._outputs, chosen, generator)

    def _outputs(self, own: Levels, other: Levels | None) -> StudentOutputs:
        if self.part.mode == "faithful":
            return self.module(own, other)
        with mixed_precision(self.device):
            return self.module(own, other)
