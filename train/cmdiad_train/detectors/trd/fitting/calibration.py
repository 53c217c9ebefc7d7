"""Calibration of the branches: mean and standard deviation of their maps of good samples."""

from __future__ import annotations

import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.detectors.trd.detector import ReverseDistillation

LEAST_DEVIATION = 1e-6
"""A map that varies less is constant up to rounding: its values are sums of cosine distances, 0 to 6."""


@torch.no_grad()
def calibrate_branches(context: FitContext, detector: ReverseDistillation) -> tuple[Tensor, Tensor]:
    """Return mean and population standard deviation of the map of each branch, float64 `[branches]` each.

    Both are computed over all inspected pixels of the unsmoothed maps of the held-out good samples, of which there are
    at least two (TRD, published code). The same samples set the threshold. They enter mean and deviation all alike,
    and a detector with one branch ranks samples without them.

    Args:
        context: The training.
        detector: Detector on the CPU. Its present calibration does not matter.

    Raises:
        RunError: The maps of a branch are constant or not finite, so that the detector would pass every part.
    """
    total = squares = pixels = torch.zeros(len(detector.branches), dtype=torch.float64)
    for done, files in enumerate(context.held_out, start=1):
        inputs = as_tensors(context.samples.prepared(files).inputs)
        maps = detector.branch_maps(*(inputs[name] for name in detector.input_names)).double()
        kept = torch.ones_like(maps) if context.kept is None else context.kept.to(maps).expand_as(maps)
        total, squares = total + (kept * maps).sum((1, 2)), squares + (kept * maps.square()).sum((1, 2))
        pixels = pixels + kept.sum((1, 2))
        context.reporter.step("calibrate branches", done, len(context.held_out))
    mean = total / pixels
    deviation = (squares / pixels - mean.square()).clamp(min=0).sqrt()
    for modality, value in zip(context.recipe.mains, deviation.tolist(), strict=True):
        if not LEAST_DEVIATION < value < float("inf"):
            raise RunError(
                f"{modality} student",
                found=f"anomaly maps of good samples with a standard deviation of {value:.3g}",
                expected="maps that differ from pixel to pixel",
                action="Train with a smaller --learning-rate or more --epochs",
            )
    return mean, deviation
