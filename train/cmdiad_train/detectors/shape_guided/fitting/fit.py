"""Training of a Shape-Guided detector, in steps that leave whole files, so that it can resume."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.detectors.family import FitContext, Fitted
from cmdiad_train.detectors.shape_guided.detector import ShapeGuided
from cmdiad_train.detectors.shape_guided.fitting.alignment import aligned
from cmdiad_train.detectors.shape_guided.fitting.images import memorised_images
from cmdiad_train.detectors.shape_guided.fitting.patches import TrainingPatches
from cmdiad_train.detectors.shape_guided.fitting.training import train_network
from cmdiad_train.detectors.shape_guided.guided_detector import Alignment, GuidedShapes
from cmdiad_train.detectors.shape_guided.networks.image_memory import ImageRows
from cmdiad_train.detectors.shape_guided.networks.shape_network import ShapeNetwork
from cmdiad_train.detectors.shape_guided.run_files import (
    EXTRACTOR,
    MEMORY,
    load,
    load_features,
    new_features,
    new_network,
    save_features,
    save_memory,
)
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.recipe import Recipe, shape_guided_part

LEAST_SPREAD = 1e-6
"""Codes of good patches that vary less than this share of their length cannot tell patches apart."""


def fit(context: FitContext) -> Fitted:
    """Fit a Shape-Guided detector. Each step loads what an earlier attempt has finished."""
    run, recipe = context.run, context.recipe
    guided = recipe.modality == "both"
    if guided and not (run / EXTRACTOR).exists():
        save_features(run, new_features(recipe))
    if not (run / MEMORY).exists():
        patches, network = TrainingPatches(context), new_network(recipe)
        train_network(context, network, patches)
        codes = memorised(context, network, patches)
        images = _images(context, network, codes, patches) if guided else (None, None)
        save_memory(run, codes, *images)
    detector = load(run, recipe)
    scores, peaks = context.score_held_out(detector)
    return Fitted(detector, scores, peaks, _provenance(recipe, detector))


def _images(
    context: FitContext, network: ShapeNetwork, codes: Tensor, patches: TrainingPatches
) -> tuple[ImageRows, Alignment]:
    """Return the memory of image features and the alignment.

    Args:
        context: The training.
        network: Trained network in eval mode.
        codes: Codes of all training patches, float32 `[K, 128]` on the CPU.
        patches: Patches of the training samples.
    """
    recipe = context.recipe
    counts = [len(patches.of(sample)) for sample in range(len(patches))]
    features = load_features(context.run, recipe)
    stored = memorised_images(context, features, counts)
    shape = ShapeGuided(recipe, network.cpu(), codes, context.kept)
    detector = GuidedShapes(recipe, shape, features.cpu(), stored, None, context.kept)
    return stored, aligned(context, detector, counts)


def _provenance(recipe: Recipe, detector: ShapeGuided | GuidedShapes) -> dict[str, Any]:
    provenance: dict[str, Any] = {"xyz": {"extractor": "shape network, trained on the good samples"}}
    spec = shape_guided_part(recipe).rgb
    if spec is not None and isinstance(detector, GuidedShapes):
        file = weights_file(spec.weights)
        provenance["rgb"] = {"extractor": detector.features.backbone.provenance}
        provenance["rgb"] |= {} if file is None else {"weights_sha256": sha256_of(file)}
    return provenance


@torch.no_grad()
def memorised(context: FitContext, network: ShapeNetwork, patches: TrainingPatches) -> Tensor:
    """Return the codes of all patches of the training samples, float32 `[K, 128]` on the CPU.

    Args:
        context: The training.
        network: Trained network in eval mode, on the device of the training.
        patches: Patches of the training samples.

    Raises:
        RunError: All codes are equal, so that every part would pass.
    """
    codes = []
    for sample in range(len(patches)):
        codes.append(network.encoder(patches.of(sample).to(context.device)).float().cpu())
        context.reporter.step("encode patches", sample + 1, len(patches))
    rows = torch.cat(codes)
    require_spread(rows)
    return rows


def require_spread(codes: Tensor) -> None:
    """Raise RunError if codes float32 `[K, 128]` of good patches are all equal up to rounding, or not finite."""
    spread = (codes - codes.mean(0)).norm(dim=1).max()
    if not bool(spread > LEAST_SPREAD * codes.norm(dim=1).max()):
        raise RunError(
            "shape network",
            found=f"codes of good patches that differ by at most {float(spread):.3g}",
            expected="codes that tell patches apart",
            action="Train with a smaller --learning-rate, or with more --epochs",
        )
