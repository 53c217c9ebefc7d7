"""Training of an M3DM detector, in steps that leave whole files, so that it can resume."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

import torch

from cmdiad_runtime.names import Modality
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.features.patches import PatchFeatures
from cmdiad_train.detectors.bank.fitting.banks import inspected_patches
from cmdiad_train.detectors.bank.fitting.calibration import LEFT_OUT, calibrate_fusion
from cmdiad_train.detectors.bank.fitting.features import TrainingFeatures
from cmdiad_train.detectors.bank.fusion import fusion_weights
from cmdiad_train.detectors.bank.run_files import save_fusion
from cmdiad_train.detectors.family import FitContext, Fitted
from cmdiad_train.detectors.m3dm.fitting.banks import fitted_banks
from cmdiad_train.detectors.m3dm.fitting.pairs import TrainingPairs
from cmdiad_train.detectors.m3dm.fitting.training import train_fusion
from cmdiad_train.detectors.m3dm.networks.fused_features import FusedFeatures
from cmdiad_train.detectors.m3dm.run_files import NETWORK, load_fused, new_network
from cmdiad_train.features.store import FeatureStore
from cmdiad_train.recipe import m3dm_part

CHECKPOINT = "feature-fusion.checkpoint.safetensors"
PAIRED: tuple[Modality, Modality] = ("xyz", "rgb")
"""Modalities that the fusion network learns from, in the published order."""


def fit(context: FitContext) -> Fitted:
    """Fit an M3DM detector. Each step loads what an earlier attempt has finished."""
    recipe, fuses = context.recipe, m3dm_part(context.recipe).feature_fusion == "uff"
    with FeatureStore(context.features, budget=context.cache_bytes, reporter=context.reporter) as store:
        training = TrainingFeatures(context, store)
        features = {modality: training.patch_features(modality) for modality in PAIRED}
        of_all: dict[Modality, list[Patches]] = {
            modality: [(s["rows"], s["cells"]) for s in training.of_training(own, modality)]
            for modality, own in features.items()
        }
        mains = [features[modality] for modality in recipe.mains]
        patches = [of_all[modality] for modality in recipe.mains]
        fused = _trained_fusion(context, features, of_all) if fuses else None
        if fused is not None:
            patches.append(_fused_patches(context, fused, patches))
        grids = [made.grid for made in mains] + ([fused.grid] if fused is not None else [])
        inspected = inspected_patches(patches, grids, context.kept)
        banks = fitted_banks(context, inspected)
        detector = Detector(recipe, mains, banks, None, context.kept, fused)
        counted_as: Sequence[int] = ()
        if m3dm_part(recipe).mode == "faithful":
            scores, peaks = _calibrated_as_published(context, detector, patches)
        else:
            scores, peaks, counted_as = calibrate_fusion(context, detector, banks, (patches, inspected))
    save_fusion(context.run, detector)
    (context.run / CHECKPOINT).unlink(missing_ok=True)  # left by an attempt that was killed right before the end
    shutil.rmtree(context.run / LEFT_OUT, ignore_errors=True)
    return Fitted(detector, scores, peaks, training.provenance, counted_as)


def _trained_fusion(
    context: FitContext, features: Mapping[Modality, PatchFeatures], patches: Mapping[Modality, Sequence[Patches]]
) -> FusedFeatures:
    """Return the fused features of the main modalities, with the network that this training or an earlier one made."""
    if not (context.run / NETWORK).exists():
        grids = {modality: own.grid for modality, own in features.items()}
        pairs = TrainingPairs(context.recipe, patches, grids, context.kept, context.device)
        train_fusion(context, new_network(context.recipe, pairs.widths), pairs)
    return load_fused(context.run, context.recipe, [features[modality] for modality in context.recipe.mains])


@torch.no_grad()
def _fused_patches(context: FitContext, fused: FusedFeatures, patches: Sequence[Sequence[Patches]]) -> list[Patches]:
    """Return the fused rows and cells of every training sample, on the CPU."""
    fused.to(context.device)
    made = []
    for i, sample in enumerate(zip(*patches, strict=True)):
        rows, cells = fused([(rows.to(context.device), cells.to(context.device)) for rows, cells in sample])
        made.append((rows.cpu(), cells.cpu()))
        context.reporter.step("fuse features", i + 1, len(patches[0]))
    fused.cpu()
    return made


@torch.no_grad()
def _calibrated_as_published(
    context: FitContext, detector: Detector, patches: Sequence[Sequence[Patches]]
) -> tuple[list[float], list[float]]:
    """Set the published weights of the fusion, and return scores and map maxima of the held-out samples.

    The weights are fitted on the training samples against banks that hold their rows. Such scores are too low for a
    threshold, and the published banks cannot be made again without a sample, so held-out samples alone set it.
    """
    scored = []
    for i, sample in enumerate(zip(*patches, strict=True)):
        scored.append(detector.score_each(list(sample)))
        context.reporter.step("fit fusion", i + 1, len(patches[0]))
    detector.score_weights = fusion_weights(torch.stack([scores for scores, _ in scored]), context.recipe)
    columns = torch.cat([maps.flatten(1).T for _, maps in scored])
    detector.map_weights = fusion_weights(columns, context.recipe)
    return context.score_held_out(detector)
