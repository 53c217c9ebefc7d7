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
            for modality in MODALITIES:
                self._tuned(modality, student_file(folder, modality))
        elif self.part.variant == "rd":
            for modality in self.context.recipe.mains:
                self._plain(modality, student_file(folder, modality))
        elif self.part.variant == "mtfi-trd":
            self._fine_tuned(own, student_file(folder, own), folder / HALLUCINATION)
        else:
            self._imitating(own, student_file(folder, own))

    def _plain(self, own: Modality, file: Path) -> Student:
        """Return the student of plain reverse distillation (RD)."""
        objective = Reconstruction(self.part.distance, self.of_teacher(own))
        lesson = self._lesson(f"train {own} student", file, objective)
        return trained_student(self.context, new_student(self.context.recipe, self.shape), lesson)

    def _tuned(self, own: Modality, file: Path) -> Student:
        """Return the student of one modality that also sees the other one (TRD)."""
        objective = Reconstruction(self.part.distance, self.of_teacher(own), self.of_teacher(OTHER[own]))
        lesson = self._lesson(f"train {own} student", file, objective)
        return trained_student(self.context, new_student(self.context.recipe, self.shape, self.shape), lesson)

    def _fine_tuned(self, own: Modality, file: Path, hallucination: Path) -> tuple[Student, Features]:
        """Return the student of MTFI-TRD, which also works with hallucinated features, and these features."""
        before = stage_file(self.group.folder, f"{own}-tuned")
        student = self._tuned(own, before)
        hallucinated = self._hallucinated(own, hallucination)
        objective = DroppedModality(self.part.distance, self.of_teacher(own), self.of_teacher(OTHER[own]), hallucinated)
        lesson = replace(
            self._lesson(f"fine-tune {own} student", file, objective),
            epochs=self.part.fine_tune_epochs,
            learning_rate=FINE_TUNING_RATE * self.part.learning_rate,
        )
        return trained_student(self.context, student.requires_grad_(True), lesson), hallucinated

    def _hallucinated(self, own: Modality, file: Path) -> Features:
        """Return the features of the other teacher as hallucinated from the own ones."""
        if not file.exists():
            other = self._tuned(OTHER[own], stage_file(self.group.folder, f"{OTHER[own]}-tuned"))
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
        teacher, hallucinated = self._fine_tuned(own, stage_file(folder, own), stage_file(folder, "hallucination"))
        examples = [
            self.features.of_network(
                f"{self.group.prefix}{name}", teacher, partial(_fused, teacher), [self.of_teacher(own), other]
            )
            for name, other in (("fused", self.of_teacher(OTHER[own])), ("fused hallucinated", hallucinated))
        ]
        objective = Imitation(self.part.distance, self.of_teacher(own), examples)
        lesson = replace(self._lesson(f"distil {own} student", file, objective), epochs=self.part.distil_epochs)
        return trained_student(self.context, new_student(self.context.recipe, self.shape), lesson)

    def _names(self) -> list[str]:
        """Return the names of the students of this group without its prefix, in the order of their training."""
        mains, variant = self.context.recipe.mains, self.part.variant
        if variant in ("trd", "rd"):
            return [f"train {modality} student" for modality in (MODALITIES if variant == "trd" else mains)]
        own = mains[0]
        names = [f"train {own} student", f"train {OTHER[own]} student", f"fine-tune {own} student"]
        return [*names, f"distil {own} student"] if variant == "mtfi-rd" else names

    def _lesson(self, name: str, file: Path, objective: Objective) -> Lesson:
        """Return a full training of one student.

        Args:
            name: Name of the student in progress reports, one of `_names`.
            file: File of the trained student.
            objective: Loss of the student.
        """
        part, names = self.part, self._names()
        following = len(names) - 1 - names.index(name)
        if not self.group.prefix:  # Each fold trains as many again.
            following += part.folds * len(names)
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
