"""Training of a Shape-Guided detector, in steps that leave whole files, so that it can resume."""

from __future__ import annotations

import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.family import FitContext, Fitted
from cmdiad_train.detectors.shape_guided.fitting.patches import TrainingPatches
from cmdiad_train.detectors.shape_guided.fitting.training import train_network
from cmdiad_train.detectors.shape_guided.networks.shape_network import ShapeNetwork
from cmdiad_train.detectors.shape_guided.run_files import MEMORY, load, new_network, save_codes

LEAST_SPREAD = 1e-6
"""Codes of good patches that vary less than this share of their length cannot tell patches apart."""


def fit(context: FitContext) -> Fitted:
    """Fit a Shape-Guided detector. Each step loads what an earlier attempt has finished."""
    run, recipe = context.run, context.recipe
    if not (run / MEMORY).exists():
        patches, network = TrainingPatches(context), new_network(recipe)
        train_network(context, network, patches)
        save_codes(run, memorised(context, network, patches))
    detector = load(run, recipe)
    scores, peaks = context.score_held_out(detector)
    return Fitted(detector, scores, peaks, {"xyz": {"extractor": "shape network, trained on the good samples"}})


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
