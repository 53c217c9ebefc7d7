"""Training of a reverse distillation detector, in steps that leave whole files, so that it can resume."""

from __future__ import annotations

import shutil
from typing import Any

from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.detectors.family import FitContext, Fitted
from cmdiad_train.detectors.trd.fitting.calibration import calibrate_branches
from cmdiad_train.detectors.trd.fitting.features import TrainingFeatures
from cmdiad_train.detectors.trd.fitting.folds import score_left_out
from cmdiad_train.detectors.trd.fitting.variants import Group, Students
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.detectors.trd.run_files import (
    BRANCHES,
    STAGES,
    TEACHER,
    load,
    load_students,
    load_teacher,
    save_branches,
    save_teacher,
    student_file,
)
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.features import FeatureStore
from cmdiad_train.recipe import trd_part


def fit(context: FitContext) -> Fitted:
    """Fit a reverse distillation detector. Each step loads what an earlier attempt has finished."""
    run, recipe = context.run, context.recipe
    if not (run / TEACHER).exists():
        save_teacher(run, Teacher(trd_part(recipe).teacher, size=recipe.size, seed=recipe.seed))
    with FeatureStore(context.features, budget=context.cache_bytes, reporter=context.reporter) as store:
        features = TrainingFeatures(context, store, load_teacher(run, recipe))
        if not all(student_file(run, modality).exists() for modality in recipe.mains):
            Students(context, features, Group("", run, range(len(context.train)))).train()
        if not (run / BRANCHES).exists():
            save_branches(run, recipe, *calibrate_branches(context, load_students(run, recipe, run)))
        left_out = score_left_out(context, features)
    detector = load(run, recipe)
    scores, peaks = context.score_held_out(detector)
    shutil.rmtree(run / STAGES, ignore_errors=True)
    provenance = _provenance(context, detector.teacher.provenance)
    return Fitted(detector, [*scores, *left_out.scores], [*peaks, *left_out.peaks], provenance)


def _provenance(context: FitContext, origin: str) -> dict[str, Any]:
    """Return the origin of the teacher for each modality that the training used."""
    weights = weights_file(trd_part(context.recipe).teacher.weights)
    teacher = {"extractor": origin} | ({} if weights is None else {"weights_sha256": sha256_of(weights)})
    modalities = context.recipe.mains
    if trd_part(context.recipe).trains_with_both and context.recipe.modality != "both":
        modalities = (*modalities, context.recipe.other)
    return {modality: dict(teacher) for modality in modalities}
