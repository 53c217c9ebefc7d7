"""The family of reverse distillation: the teacher's features that students cannot reproduce are anomalies."""

from __future__ import annotations

import torch

from cmdiad_train.detectors.family import Family
from cmdiad_train.detectors.network_size import CHECKPOINT_COPIES, network_bytes
from cmdiad_train.detectors.trd.fitting.fit import fit
from cmdiad_train.detectors.trd.networks.student import Student
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.detectors.trd.options import OPTIONS
from cmdiad_train.detectors.trd.preprocessing import make_preprocessing, preferred_view, trained_modality
from cmdiad_train.detectors.trd.recipe_options import idle_options, recipe_from, remarks
from cmdiad_train.detectors.trd.run_files import load
from cmdiad_train.recipe import Recipe, TrdRecipe, trd_part
from cmdiad_train.recipe.rules import require
from cmdiad_train.recipe.trd import LARGEST_STRIDE


def check_weights(recipe: Recipe) -> int:
    """Build the teacher once, so that missing weights are reported early; return the size of all networks in bytes.

    The size includes the students that only the training needs, and the largest checkpoint while it is replaced.

    Raises:
        RunError: Weights are missing or do not fit, or the bottleneck would have a single pixel, whose statistics
            (BatchNorm) do not exist for a step with one sample.
    """
    expected = f"at least {2 * LARGEST_STRIDE} pixels, so that the students' bottleneck has more than one pixel"
    require(recipe.size > LARGEST_STRIDE, "size", recipe.size, expected)
    teacher = Teacher(trd_part(recipe).teacher, size=recipe.size, seed=recipe.seed)
    with torch.device("meta"):
        plain, tuned = (network_bytes(Student(teacher.shape, other)) for other in (None, teacher.shape))
    variant = trd_part(recipe).variant
    alone = len(recipe.mains) * plain
    students = {"trd": 2 * tuned, "rd": alone, "mtfi-trd": 3 * tuned, "mtfi-rd": 3 * tuned + plain}[variant]
    sets = 2 if trd_part(recipe).folds else 1  # A fold adds its students to those of the detector.
    return network_bytes(teacher) + sets * students + CHECKPOINT_COPIES * (plain if variant == "rd" else tuned)


TRD = Family(
    name=TrdRecipe.family,
    part=TrdRecipe,
    options=OPTIONS,
    recipe=recipe_from,
    remarks=remarks,
    idle=idle_options,
    preprocessing=make_preprocessing,
    fit=fit,
    load=load,
    preferred_view=preferred_view,
    trained_modality=trained_modality,
    run_name=lambda recipe: trd_part(recipe).variant,
    scores_training=lambda recipe: trd_part(recipe).folds > 0,
    check=check_weights,
)
