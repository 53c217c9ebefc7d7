"""Files of a reverse distillation detector in a run directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cmdiad_runtime.names import Modality
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.records import LARGEST_NUMBER, is_number
from cmdiad_train.detectors.trd.detector import ReverseDistillation
from cmdiad_train.detectors.trd.networks.amplifier import Amplifier
from cmdiad_train.detectors.trd.networks.hallucinated import Hallucinated
from cmdiad_train.detectors.trd.networks.shapes import TeacherShape
from cmdiad_train.detectors.trd.networks.student import Student
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.recipe import Recipe, trd_part
from cmdiad_train.runs.mask import load_kept
from cmdiad_train.runs.tensors import damaged, load_metadata, load_state, load_tensors, read_json, save_tensors

TEACHER = "teacher.safetensors"
HALLUCINATION = "hallucination.safetensors"
BRANCHES = "branches.json"
STAGES = "stages"
"""Folder of a run with students that only the training needs; deleted when the family is fitted."""


def student_file(folder: Path, modality: Modality) -> Path:
    """Return the file of the student that inspects a modality."""
    return folder / f"student-{modality}.safetensors"


def stage_file(folder: Path, name: str) -> Path:
    """Return the file of a network that only the training needs."""
    return folder / STAGES / f"{name}.safetensors"


def fold_scores_file(run: Path, number: int) -> Path:
    """Return the file with the scores of the samples that a fold leaves out.

    The file stays in the run, so that a training that is killed at its end does not train the folds again.

    Args:
        run: Run directory.
        number: Number of the fold, from 1.
    """
    # Not "fold-": earlier versions left other samples out, and their scores must not be mixed with these.
    return run / f"random-fold-{number}.json"


def fold_folder(run: Path, number: int) -> Path:
    """Return the folder of the students of a fold, which is deleted when the fold is scored."""
    return run / STAGES / f"random-fold-{number}"


def load_fold_scores(file: Path, count: int) -> list[tuple[float, float]]:
    """Return image score and map maximum of each sample that a fold leaves out.

    Raises:
        RunError: The file is damaged.
    """
    rows = read_json(file).get("scores")
    if isinstance(rows, list) and len(rows) == count:
        scores = [tuple(row) for row in rows if isinstance(row, list) and len(row) == 2]
        values = [value for row in scores for value in row]
        if len(scores) == count and all(is_number(value, -LARGEST_NUMBER, LARGEST_NUMBER) for value in values):
            return scores
    raise damaged(file, ValueError("no scores of the samples that the fold leaves out"))


def load(run: Path, recipe: Recipe) -> ReverseDistillation:
    """Load the detector of a finished run.

    Raises:
        RunError: A file is missing or damaged.
    """
    detector = load_students(run, recipe, run)
    detector.calibrate(*load_branches(run, recipe))
    return detector


def load_students(run: Path, recipe: Recipe, folder: Path) -> ReverseDistillation:
    """Load a detector whose branches are not calibrated yet.

    Args:
        run: Run directory, with the teacher.
        recipe: Recipe of the run.
        folder: Folder with the students: the run directory, or that of a fold.

    Raises:
        RunError: A file is missing or damaged.
    """
    teacher = load_teacher(run, recipe)
    tuned = trd_part(recipe).variant in ("trd", "mtfi-trd")
    branches = []
    for modality in recipe.mains:
        student = Student(teacher.shape, teacher.shape if tuned else None)
        load_state(student, load_tensors(student_file(folder, modality)), student_file(folder, modality))
        branches.append(student)
    hallucinates = trd_part(recipe).variant == "mtfi-trd"
    hallucinated = load_hallucinated(folder / HALLUCINATION, teacher.shape) if hallucinates else None
    return ReverseDistillation(recipe, teacher, branches, hallucinated, load_kept(run, recipe))


def save_teacher(run: Path, teacher: Teacher) -> None:
    """Write the run's copy of the teacher's weights, with their provenance."""
    save_tensors(run / TEACHER, teacher.state_dict(), {"provenance": teacher.provenance})


def load_teacher(run: Path, recipe: Recipe) -> Teacher:
    """Return the teacher with the run's copy of the weights. The file that the recipe names is not needed."""
    spec = replace(trd_part(recipe).teacher, weights="seeded")
    teacher = Teacher(spec, size=recipe.size, seed=recipe.seed)
    load_state(teacher, load_tensors(run / TEACHER), run / TEACHER)
    teacher.backbone.provenance = load_metadata(run / TEACHER).get("provenance", teacher.provenance)
    return teacher


def save_hallucinated(file: Path, hallucinated: Hallucinated) -> None:
    """Write the Amplifier that predicts the features of the missing modality, with its scales."""
    save_tensors(file, hallucinated.state_dict())


def load_hallucinated(file: Path, shape: TeacherShape) -> Hallucinated:
    """Return the network that predicts the features of the missing modality.

    Args:
        file: File that `save_hallucinated` wrote.
        shape: Shape of the teacher.

    Raises:
        RunError: The file is missing or damaged.
    """
    hallucinated = Hallucinated(Amplifier(shape.channels, shape.channels), torch.ones(3))
    load_state(hallucinated, load_tensors(file), file)
    return hallucinated.eval().requires_grad_(False)


def save_branches(run: Path, recipe: Recipe, mean: Tensor, deviation: Tensor) -> None:
    """Write mean and standard deviation float64 `[branches]` of the maps of good samples, in the order of `mains`."""
    rows = zip(recipe.mains, mean.tolist(), deviation.tolist(), strict=True)
    write_json(run / BRANCHES, {modality: {"mean": mean, "deviation": deviation} for modality, mean, deviation in rows})


def load_branches(run: Path, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return the calibration that `save_branches` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    stored = read_json(run / BRANCHES)
    try:
        mean, deviation = (
            torch.tensor([stored[modality][name] for modality in recipe.mains], dtype=torch.float64)
            for name in ("mean", "deviation")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(run / BRANCHES, ValueError(f"no calibration ({error})")) from error
    if not (torch.isfinite(mean).all() and torch.isfinite(deviation).all() and (deviation > 0).all()):
        raise damaged(run / BRANCHES, ValueError("a calibration that is not finite and positive"))
    return mean, deviation
