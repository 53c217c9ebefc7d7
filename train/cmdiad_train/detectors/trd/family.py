"""The family of reverse distillation: the teacher's features that students cannot reproduce are anomalies."""

from __future__ import annotations

from pathlib import Path

from cmdiad_train.detectors.family import Family, FitContext, Fitted, TrainedDetector
from cmdiad_train.detectors.trd.options import OPTIONS
from cmdiad_train.detectors.trd.preprocessing import make_preprocessing, preferred_view, trained_modality
from cmdiad_train.detectors.trd.recipe_options import recipe_from, remarks
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.recipe import Recipe, TrdRecipe, trd_part


def _fit(context: FitContext) -> Fitted:
    from cmdiad_train.detectors.trd.fitting.fit import fit

    return fit(context)


def _load(run: Path, recipe: Recipe) -> TrainedDetector:
    from cmdiad_train.detectors.trd.run_files import load

    return load(run, recipe)


def check_weights(recipe: Recipe) -> int:
    """Build the teacher once, so that missing weights are reported early; return the teacher's size in bytes."""
    teacher = TimmBackbone(trd_part(recipe).teacher, size=recipe.size, seed=recipe.seed)
    return sum(tensor.nbytes for tensor in teacher.state_dict().values())


TRD = Family(
    name=TrdRecipe.family,
    part=TrdRecipe,
    options=OPTIONS,
    recipe=recipe_from,
    remarks=remarks,
    preprocessing=make_preprocessing,
    fit=_fit,
    load=_load,
    preferred_view=preferred_view,
    trained_modality=trained_modality,
    run_name=lambda recipe: trd_part(recipe).variant,
    check=check_weights,
)
