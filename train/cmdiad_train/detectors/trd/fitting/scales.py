"""The magnitude of hallucinated features, which the cosine losses of an Amplifier leave open."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.training_features import Features
from cmdiad_train.detectors.trd.fitting.features import Levels


@torch.no_grad()
def fit_scales(
    amplify: Callable[[Levels], Levels], source: Features, target: Features, chosen: Sequence[int]
) -> Tensor:
    """Return the factor of each level that brings amplified features closest to the target, in least squares.

    The factor of a level is sum(amplified · target) / sum(amplified²) over all values of the samples.

    Args:
        amplify: Amplifier in eval mode, on the device of the features.
        source: Features that the Amplifier receives.
        target: Features that the Amplifier predicts.
        chosen: Indices of the training samples.

    Returns:
        Factors float32 `[3]` on the CPU.

    Raises:
        RunError: An Amplifier predicts nothing but zeros, or values that are not finite.
    """
    products, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for index in chosen:
        amplified = [level.double() for level in amplify(source.batch([index]))]
        pairs = zip(amplified, target.batch([index]), strict=True)
        products += torch.stack([(a * b).sum() for a, b in pairs]).cpu()
        squares += torch.stack([a.square().sum() for a in amplified]).cpu()
    scales = (products / squares).float()
    if not bool(torch.isfinite(scales).all() and (scales != 0).all()):
        raise RunError(
            "hallucinated features",
            found=f"factors of {scales.tolist()}",
            expected="an Amplifier whose features resemble those of the other sensor",
            action="Train with a smaller --learning-rate or more --epochs",
        )
    return scales
