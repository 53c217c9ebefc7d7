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
    at least two (TRD, published code). The same samples set the threshold. All of them enter mean and deviation alike,
    so that each of their scores still is as likely as that of a new good part.

    Args:
        context: The training.
        detector: Detector on the CPU. Its present calibration does not matter.

    Raises:
        RunError: The maps of a branch are constant or not finite: the detector would pass every part.
    """
    total = squares = torch.zeros(len(detector.branches), dtype=torch.float64)
    pixels = 0
    for done, files in enumerate(context.held_out, start=1):
        inputs = as_tensors(context.samples.prepared(files).inputs)
        maps = detector.branch_maps(*(inputs[name] for name in detector.input_names))
        inspected = torch.stack([values.double() for values in _inspected(maps, context.kept)])
        total, squares = total + inspected.sum(1), squares + inspected.square().sum(1)
        pixels += inspected.shape[1]
        context.reporter.step("calibrate branches", done, len(context.held_out))
    mean = total / pixels
    deviation = (squares / pixels - mean.square()).clamp(min=0).sqrt()
    _check(detector, mean, deviation)
    return mean, deviation
