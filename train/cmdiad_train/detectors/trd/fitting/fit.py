"""Training of a reverse distillation detector, in steps that leave whole files, so that it can resume."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from cmdiad_runtime.names import MODALITIES, Modality
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.detectors.family import FitContext, Fitted
from cmdiad_train.detectors.trd.detector import Hallucinated
from cmdiad_train.detectors.trd.fitting.calibration import calibrate_branches
from cmdiad_train.detectors.trd.fitting.features import Features, TrainingFeatures
from cmdiad_train.detectors.trd.fitting.objectives import DroppedModality, Imitation, Reconstruction
from cmdiad_train.detectors.trd.fitting.scales import fit_scales
from cmdiad_train.detectors.trd.fitting.students import Lesson, new_student, stop_split, trained_student
from cmdiad_train.detectors.trd.networks.student import Student
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.detectors.trd.run_files import (
    BRANCHES,
    STAGES,
    TEACHER,
    load,
    load_teacher,
    save_branches,
    save_hallucination,
    save_teacher,
    student_file,
    uncalibrated,
)
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.features import FeatureStore
from cmdiad_train.recipe import trd_part

FINE_TUNING_RATE = 0.1
"""Learning rate of fine-tuning, as a share of that of the training."""


def fit(context: FitContext) -> Fitted:
    """Fit a reverse distillation detector. Each step loads what an earlier attempt has finished."""
    run, recipe = context.run, context.recipe
    if not (run / TEACHER).exists():
        save_teacher(run, Teacher(trd_part(recipe).teacher, size=recipe.size, seed=recipe.seed))
    teacher = load_teacher(run, recipe)
    if not all(student_file(run, modality).exists() for modality in recipe.mains):
        with FeatureStore(context.features, budget=context.cache_bytes, reporter=context.reporter) as store:
            _VARIANTS[trd_part(recipe).variant](_Training(context, TrainingFeatures(context, store, teacher)))
    shutil.rmtree(run / STAGES, ignore_errors=True)
    if not (run / BRANCHES).exists():
        save_branches(run, recipe, *calibrate_branches(context, uncalibrated(run, recipe)))
    detector = load(run, recipe)
    scores, peaks = context.score_held_out(detector)
    return Fitted(detector, scores, peaks, _provenance(context, teacher))
