"""The memory bank family: nearest-neighbour distances to normal patch features, with optional hallucination."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import torch

from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.features.patches import PatchFeatures
from cmdiad_train.detectors.bank.fitting.banks import bank_rows, inspected_patches, make_bank
from cmdiad_train.detectors.bank.fitting.calibration import LEFT_OUT, calibrate_fusion
from cmdiad_train.detectors.bank.fitting.features import TrainingFeatures
from cmdiad_train.detectors.bank.fitting.hallucinating import (
    CHECKPOINTS,
    hallucinate,
    hallucinated_features,
    row_weights,
    take_over,
)
from cmdiad_train.detectors.bank.memory_bank import MemoryBank
from cmdiad_train.detectors.bank.options import OPTIONS
from cmdiad_train.detectors.bank.preprocessing import (
    joint_categories,
    make_preprocessing,
    preferred_view,
    trained_modality,
)
from cmdiad_train.detectors.bank.recipe_options import idle_options, recipe_from, remarks
from cmdiad_train.detectors.bank.run_files import (
    BANKS,
    bank_names,
    build_extractor,
    load_banks,
    load_chosen,
    load_detector,
    network_file,
    save_banks,
    save_factors,
    save_fusion,
    save_row_weights,
)
from cmdiad_train.detectors.family import Family, FitContext, Fitted
from cmdiad_train.detectors.network_size import network_bytes
from cmdiad_train.features.store import FeatureStore
from cmdiad_train.recipe import BankRecipe, Recipe, Source, bank_part


def fit_banks(context: FitContext) -> Fitted:
    """Fit a memory bank detector. Each step loads what an earlier attempt has finished."""
    with FeatureStore(context.features, budget=context.cache_bytes, reporter=context.reporter) as store:
        training = TrainingFeatures(context, store)
        mains = {modality: training.patch_features(modality) for modality in context.recipe.mains}
        stored = [training.of_training(features, modality) for modality, features in mains.items()]
        hallucinated = hallucinated_features(training, next(iter(mains.values())), stored[0])
        patches: list[list[Patches]] = [[(s["rows"], s["cells"]) for s in samples] for samples in stored]
        if hallucinated is not None:
            patches = hallucinate(training, hallucinated, stored[0])
        grids = [features.grid for features in mains.values()] + ([hallucinated.grid] if hallucinated else [])
        count = len(bank_names(context.recipe))
        inspected = inspected_patches(patches[:count], grids[:count], context.kept)
        banks = _banks(training, inspected)
        detector = Detector(context.recipe, list(mains.values()), banks, hallucinated, context.kept)
        scores, peaks, counted_as = calibrate_fusion(context, detector, banks, (patches, inspected))
    save_factors(context.run, context.recipe, detector)
    save_fusion(context.run, detector)
    for checkpoint in CHECKPOINTS:
        (context.run / checkpoint).unlink(missing_ok=True)
    shutil.rmtree(context.run / LEFT_OUT, ignore_errors=True)
    return Fitted(detector, scores, peaks, training.provenance, counted_as)


@torch.no_grad()
def _banks(training: TrainingFeatures, patches: Sequence[Sequence[Patches]]) -> list[MemoryBank]:
    context, recipe = training.context, training.recipe
    if (context.run / BANKS).exists() and load_chosen(context.run):
        return load_banks(context.run, recipe)
    is_published = training.part.mode == "faithful" and len(patches) > 1
    statistics = _shared_statistics(training, patches) if is_published else None
    banks = {
        name: make_bank(name, bank_rows(rows, recipe), recipe, statistics, context.device, context.reporter)
        for name, rows in zip(bank_names(recipe), patches, strict=True)
    }
    if training.part.uncertainty != "none":
        save_row_weights(context.run, row_weights(training, training.patch_features(recipe.mains[0]), patches))
    save_banks(context.run, banks)
    return load_banks(context.run, recipe)


def _shared_statistics(training: TrainingFeatures, patches: Sequence[Sequence[Patches]]) -> tuple[float, float]:
    """Return the published single pair: mean of raw xyz patches, deviation of raw rgb patches (method §10.1)."""
    by_modality = dict(zip(training.recipe.mains, patches, strict=False))
    for modality in ("xyz", "rgb"):
        if modality not in by_modality:
            features: PatchFeatures = training.patch_features(modality)
            stored = training.of_training(features, modality)
            by_modality[modality] = [(s["rows"], s["cells"]) for s in stored]
    xyz, rgb = by_modality["xyz"], by_modality["rgb"]
    return float(bank_rows(xyz, training.recipe).mean()), float(bank_rows(rgb, training.recipe).std())


def check_weights(recipe: Recipe) -> int:
    """Build every extractor of a recipe once, so that missing weights are reported early; return the size in bytes."""
    modalities: list[Source] = [*recipe.mains]
    if bank_part(recipe).hallucination != "none":
        modalities.append(bank_part(recipe).target(recipe))
    return network_bytes(*(build_extractor(recipe, modality) for modality in modalities))


def run_name(recipe: Recipe) -> str:
    """Return "patchcore" for a recipe of `--family patchcore`, else the hallucination and the partner, if any."""
    part = bank_part(recipe)
    if part.image_score == "patchcore":
        return part.image_score
    return part.hallucination if part.partner is None else f"{part.hallucination}-{part.partner}"


BANK = Family(
    name=BankRecipe.family,
    part=BankRecipe,
    options=OPTIONS,
    recipe=recipe_from,
    remarks=remarks,
    idle=idle_options,
    preprocessing=make_preprocessing,
    fit=fit_banks,
    load=load_detector,
    preferred_view=preferred_view,
    trained_modality=trained_modality,
    joint_categories=joint_categories,
    run_name=run_name,
    partner=lambda recipe: bank_part(recipe).partner,
    registered=lambda recipe: bank_part(recipe).registered,
    network_file=network_file,
    take_over=take_over,
    scores_training=lambda recipe: True,
    check=check_weights,
)
