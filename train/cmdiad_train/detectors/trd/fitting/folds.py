"""Scores of the training samples by students that were not trained on them (cross-validation in folds).

Every training sample is left out once, so the threshold rests on all good samples and not on the few held-out ones
alone. The students of a fold have fewer training samples than those of the detector, so their scores are larger: the
false-reject rate is kept, at the price of a high threshold (docs/families.md has figures).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.progress import about
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.trd.fitting.calibration import calibrate_branches
from cmdiad_train.detectors.trd.fitting.features import TrainingFeatures
from cmdiad_train.detectors.trd.fitting.variants import Group, Students
from cmdiad_train.detectors.trd.run_files import fold_folder, fold_scores_file, load_fold_scores, load_students
from cmdiad_train.recipe import trd_part
from cmdiad_train.training.validation import random_folds


@dataclass(frozen=True)
class LeftOut:
    """Scores of samples that the students were not trained on, in the order of the training samples.

    Attributes:
        scores: Image score of each sample.
        peaks: Largest value of each anomaly map over the image of the sensor.
    """

    scores: tuple[float, ...] = ()
    peaks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fold:
    """One fold.

    Attributes:
        prefix: First words of the names of all steps.
        left_out: Indices of the training samples that the students are not trained on.
        file: File of their scores.
        folder: Folder of the students.
    """

    prefix: str
    left_out: Sequence[int]
    file: Path
    folder: Path


def score_left_out(context: FitContext, features: TrainingFeatures) -> LeftOut:
    """Train the students of every fold, score the samples that each fold leaves out, and return all scores.

    The branches of each fold are calibrated like those of the detector, so that students with larger distances
    everywhere do not raise the threshold. Each fold leaves a small file, so that an interrupted training resumes. The
    students of a fold are deleted after that.

    Args:
        context: The training, with the teacher in its run directory.
        features: Features of the training samples.
    """
    by_sample: dict[int, tuple[float, float]] = {}
    groups, started, done = left_out_by_fold(context), time.monotonic(), 0
    files = [fold_scores_file(context.run, number) for number in range(1, len(groups) + 1)]
    for number, (left_out, file) in enumerate(zip(groups, files, strict=True), start=1):
        if not file.exists():
            _score_fold(context, features, Fold(f"fold {number} ", left_out, file, fold_folder(context.run, number)))
            done += 1
            seconds = (time.monotonic() - started) / done * sum(not later.exists() for later in files)
            left = f"; {about(seconds)} left" if seconds else ""
            context.reporter.say(f"Fold {number} of {len(groups)} is finished{left}.")
        by_sample |= dict(zip(left_out, load_fold_scores(file, len(left_out)), strict=True))
    rows = [by_sample[index] for index in sorted(by_sample)]
    return LeftOut(tuple(score for score, _ in rows), tuple(peak for _, peak in rows))


def _score_fold(context: FitContext, features: TrainingFeatures, fold: Fold) -> None:
    """Train the students of a fold, score the samples that the fold leaves out, and write the scores."""
    samples = sorted({*range(len(context.train))} - {*fold.left_out})
    group = Group(fold.prefix, fold.folder, samples)
    Students(context, features, group).train()
    detector = load_students(context.run, context.recipe, group.folder)
    detector.calibrate(*calibrate_branches(context, detector))
    step = f"{fold.prefix}score left out samples"
    scores, peaks = context.score(detector, [context.train[index] for index in fold.left_out], step)
    write_json(fold.file, {"scores": list(zip(scores, peaks, strict=True))})
    shutil.rmtree(group.folder)


def left_out_by_fold(context: FitContext) -> list[list[int]]:
    """Return the indices of the training samples that each fold leaves out; all parts of a picture are in one fold."""
    parts = context.preprocessing.parts
    pictures = len(context.train) // parts
    folds = min(trd_part(context.recipe).folds, pictures)
    groups = random_folds(pictures, folds, seed=context.recipe.seed)
    return [[picture * parts + part for picture in sorted(group) for part in range(parts)] for group in groups]
