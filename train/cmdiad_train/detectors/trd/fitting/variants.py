"""The students of each variant: TRD, RD, MTFI-TRD and MTFI-RD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cmdiad_runtime.names import MODALITIES, Modality
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.network_training import stop_split
from cmdiad_train.detectors.training_features import Features
from cmdiad_train.detectors.trd.fitting.features import Levels, TrainingFeatures
from cmdiad_train.detectors.trd.fitting.objectives import DroppedModality, Imitation, Objective, Reconstruction
from cmdiad_train.detectors.trd.fitting.scales import fit_scales
from cmdiad_train.detectors.trd.fitting.students import Lesson, new_student, trained_student
from cmdiad_train.detectors.trd.networks.hallucinated import Hallucinated
from cmdiad_train.detectors.trd.networks.student import Student
from cmdiad_train.detectors.trd.run_files import (
    HALLUCINATION,
    load_hallucinated,
    save_hallucinated,
    stage_file,
    student_file,
)
from cmdiad_train.recipe import trd_part

FINE_TUNING_RATE = 0.1
"""Learning rate of fine-tuning, as a share of that of the training."""
OTHER: dict[Modality, Modality] = {"rgb": "xyz", "xyz": "rgb"}


@dataclass(frozen=True)
class Group:
    """Training samples that one set of students learns from.

    Attributes:
        prefix: First words of the names of all steps, "" for the students of the detector.
        folder: Folder of the files of the students.
        samples: Indices of the training samples.
    """

    prefix: str
    folder: Path
    samples: Sequence[int]


class Students:
    """The students of one group of samples. Each is trained once, and later loaded from its file.

    Args:
        context: The training.
        features: Features of the training samples.
        group: Samples to learn from, and the place of the files.
    """

    def __init__(self, context: FitContext, features: TrainingFeatures, group: Group) -> None:
        self.context, self.features, self.shape = context, features, features.teacher.shape
        self.group, self.part = group, trd_part(context.recipe)
        self.of_teacher = features.of_teacher

    def train(self) -> None:
        """Write the files of the networks that inspection needs."""
        folder, own = self.group.folder, self.context.recipe.mains[0]
        if self.part.variant == "trd":
            for following, modality in zip((1, 0), MODALITIES, strict=True):
                self._tuned(modality, student_file(folder, modality), following)
        elif self.part.variant == "rd":
            mains = self.context.recipe.mains
            for number, modality in enumerate(mains, start=1):
                self._plain(modality, student_file(folder, modality), len(mains) - number)
        elif self.part.variant == "mtfi-trd":
            self._fine_tuned(own, student_file(folder, own), folder / HALLUCINATION, 0)
        else:
            self._imitating(own, student_file(folder, own))

    def _plain(self, own: Modality, file: Path, following: int) -> Student:
        """Return the student of plain reverse distillation (RD)."""
        objective = Reconstruction(self.part.distance, self.of_teacher(own))
        lesson = self._lesson(f"train {own} student", file, objective, following)
        return trained_student(self.context, new_student(self.context.recipe, self.shape), lesson)

    def _tuned(self, own: Modality, file: Path, following: int) -> Student:
        """Return the student of one modality that also sees the other one (TRD)."""
        objective = Reconstruction(self.part.distance, self.of_teacher(own), self.of_teacher(OTHER[own]))
        lesson = self._lesson(f"train {own} student", file, objective, following)
        return trained_student(self.context, new_student(self.context.recipe, self.shape, self.shape), lesson)

    def _fine_tuned(self, own: Modality, file: Path, hallucination: Path, following: int) -> tuple[Student, Features]:
        """Return the student of MTFI-TRD, which also works with hallucinated features, and these features."""
        before = stage_file(self.group.folder, f"{own}-tuned")
        student = self._tuned(own, before, following + 2)
        hallucinated = self._hallucinated(own, hallucination, following + 1)
        objective = DroppedModality(self.part.distance, self.of_teacher(own), self.of_teacher(OTHER[own]), hallucinated)
        lesson = replace(
            self._lesson(f"fine-tune {own} student", file, objective, following),
            epochs=self.part.fine_tune_epochs,
            learning_rate=FINE_TUNING_RATE * self.part.learning_rate,
        )
        return trained_student(self.context, student.requires_grad_(True), lesson), hallucinated

    def _hallucinated(self, own: Modality, file: Path, following: int) -> Features:
        """Return the features of the other teacher as hallucinated from the own ones."""
        if not file.exists():
            other = self._tuned(OTHER[own], stage_file(self.group.folder, f"{OTHER[own]}-tuned"), following)
            training, _ = stop_split(self.context, self.group.samples, self.part.patience)
            scales = fit_scales(other.amplify, self.of_teacher(own), self.of_teacher(OTHER[own]), training)
            save_hallucinated(file, Hallucinated(other.projector_amply, scales))
        network = load_hallucinated(file, self.shape).to(self.context.device)
        return self.features.of_network(
            f"{self.group.prefix}hallucinated {OTHER[own]}", network, network, [self.of_teacher(own)]
        )

    def _imitating(self, own: Modality, file: Path) -> Student:
        """Return the plain student of MTFI-RD.

        It imitates the student of both modalities, with the real features of the other modality and with hallucinated
        ones.
        """
        folder = self.group.folder
        teacher, hallucinated = self._fine_tuned(own, stage_file(folder, own), stage_file(folder, "hallucination"), 1)
        examples = [
            self.features.of_network(
                f"{self.group.prefix}{name}", teacher, partial(_fused, teacher), [self.of_teacher(own), other]
            )
            for name, other in (("fused", self.of_teacher(OTHER[own])), ("fused hallucinated", hallucinated))
        ]
        objective = Imitation(self.part.distance, self.of_teacher(own), examples)
        lesson = replace(self._lesson(f"distil {own} student", file, objective, 0), epochs=self.part.distil_epochs)
        return trained_student(self.context, new_student(self.context.recipe, self.shape), lesson)

    def _lesson(self, name: str, file: Path, objective: Objective, following: int) -> Lesson:
        """Return a full training of one student.

        Args:
            name: Name of the student in progress reports.
            file: File of the trained student.
            objective: Loss of the student.
            following: Number of students of this group that are trained afterwards. Folds train as many again each.
        """
        part = self.part
        if not self.group.prefix:
            number = {"rd": len(self.context.recipe.mains), "trd": 2, "mtfi-trd": 3, "mtfi-rd": 4}[part.variant]
            following += part.folds * number
        return Lesson(
            f"{self.group.prefix}{name}",
            file,
            objective,
            part.epochs,
            part.learning_rate,
            self.group.samples,
            following,
        )


def _fused(student: Student, own: Levels, other: Levels) -> Levels:
    fused: Levels = student(own, other).fused
    return fused
