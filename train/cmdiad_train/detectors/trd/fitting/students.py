"""Training of one student, resumable at any epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.trd.fitting.features import Levels
from cmdiad_train.detectors.trd.fitting.objectives import Objective
from cmdiad_train.detectors.trd.networks.shapes import TeacherShape
from cmdiad_train.detectors.trd.networks.student import Student, StudentOutputs
from cmdiad_train.recipe import Recipe, trd_part
from cmdiad_train.runs.tensors import load_state, load_tensors, save_tensors
from cmdiad_train.tensor_files import disk_errors
from cmdiad_train.training.checkpoint import Checkpoint
from cmdiad_train.training.log import write_log
from cmdiad_train.training.loop import BatchLoss, LoopOptions, mixed_precision, require_finite, train
from cmdiad_train.training.loss_plot import plot_losses
from cmdiad_train.training.validation import split

BETAS = (0.5, 0.999)
"""Decay rates of Adam's moments (TRD, published code)."""
STOP_SHARE = 0.1
"""Share of the training samples that choose the best epoch, if the recipe stops early. These are never held-out
samples: the threshold would be too low if the samples that set it had chosen the network."""
CHECKPOINT_SECONDS = 60.0
"""Time between two checkpoints. A checkpoint is three times as large as the student, up to 2.3 GB."""


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
    """

    name: str
    file: Path
    objective: Objective
    epochs: int
    learning_rate: float
    samples: Sequence[int]


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
    checkpoint = Checkpoint(lesson.file.with_suffix(".checkpoint.safetensors"), lesson.name)
    if not lesson.file.exists():
        part = trd_part(context.recipe)
        training, stopping = stop_split(context, lesson.samples)
        options = LoopOptions(
            lesson.name,
            lesson.epochs,
            part.batch,
            context.recipe.seed,
            batches="full" if part.mode == "faithful" else "even",
            keep_best=part.patience > 0,
            patience=part.patience,
            checkpoint_seconds=CHECKPOINT_SECONDS,
        )
        with disk_errors(lesson.file):
            lesson.file.parent.mkdir(parents=True, exist_ok=True)
        task = StudentTask(context, student, lesson, stopping)
        log = train(task, training, options, checkpoint, context.reporter)
        save_tensors(lesson.file, student.state_dict())
        name = lesson.name.replace(" ", "-")
        write_log(context.run / f"{name}.csv", log)
        plot_losses(context.run / f"{name}.png", [e.loss for e in log], [e.validation for e in log])
    checkpoint.path.unlink(missing_ok=True)
    load_state(student, load_tensors(lesson.file), lesson.file)
    return student.to(context.device).eval().requires_grad_(False)


def stop_split(context: FitContext, samples: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the indices of the samples to train on and of those that choose the best epoch.

    All parts of a picture are on the same side.

    Args:
        context: The training.
        samples: Indices of training samples, those of one picture next to each other.
    """
    parts = context.preprocessing.parts
    share = STOP_SHARE if trd_part(context.recipe).patience else 0.0
    training, stopping = (
        [samples[picture * parts + part] for picture in pictures for part in range(parts)]
        for pictures in split(len(samples) // parts, share)
    )
    return training, stopping


class StudentTask:
    """The steps of a student's training, for the training loop.

    On CUDA the student is stored channels-last, and unless the recipe is faithful it computes in bfloat16 where that
    is safe (autocast). Losses are float32.

    Args:
        context: The training.
        student: Student in training, which moves to the device of the training.
        lesson: Objective and learning rate.
        stopping: Indices of the samples that choose the best epoch.
    """

    def __init__(self, context: FitContext, student: Student, lesson: Lesson, stopping: list[int]) -> None:
        self.device, self.part = context.device, trd_part(context.recipe)
        self.module = student.to(self.device)
        if self.device.type == "cuda":
            student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.lesson, self.stopping = lesson, stopping
        self.optimiser = torch.optim.Adam(student.parameters(), lr=lesson.learning_rate, betas=BETAS)

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate of an epoch, which decays exponentially from epoch to epoch."""
        return self.lesson.learning_rate * self.part.decay ** int(start)

    def loss(self, batch: list[int], generator: torch.Generator) -> BatchLoss:
        """Compute the mean loss of a batch."""
        return BatchLoss(self.lesson.objective.loss(self._outputs, batch, generator), len(batch))

    @torch.no_grad()
    def validate(self) -> float | None:
        """Compute the mean loss of the samples that choose the best epoch, or return None without any.

        Raises:
            RunError: The loss is not finite.
        """
        if not self.stopping:
            return None
        self.module.eval()
        size, total = self.part.batch, 0.0
        for start in range(0, len(self.stopping), size):
            chosen = self.stopping[start : start + size]
            total += float(self.lesson.objective.loss(self._outputs, chosen, None)) * len(chosen)
        require_finite(total, f"{self.lesson.name}, validation")
        return total / len(self.stopping)

    def _outputs(self, own: Levels, other: Levels | None) -> StudentOutputs:
        if self.part.mode == "faithful":
            return self.module(own, other)
        with mixed_precision(self.device):
            return self.module(own, other)
