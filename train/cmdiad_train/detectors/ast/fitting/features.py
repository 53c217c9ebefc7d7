"""Features of the training samples, and their mean and deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmdiad_train.detectors.ast.networks.cells import Cells, Standardisation
from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.detectors.training_features import FeatureCache, Features, Maps
from cmdiad_train.features import FeatureStore, extractor_digest
from cmdiad_train.recipe import AstRecipe, ast_part

LEAST_DEVIATION = 1e-3
"""Smallest deviation of a channel, as a share of its magnitude; one that varies less is centred, but not scaled."""


@dataclass(frozen=True)
class CellBatches:
    """Source of the batches of a training.

    Attributes:
        features: Features and weights of the cells of all training samples.
        standardise: Standardisation of the features, on the device of the training.
    """

    features: Features
    standardise: Standardisation

    def batch(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return standardised features `[B, C, h, w]` and weights `[B, 1, h, w]` of the cells of some samples."""
        features, weights = self.features.batch(chosen)
        return self.standardise(features), weights


def training_features(context: FitContext, store: FeatureStore, cells: Cells) -> Features:
    """Return features and weights of the cells of all training samples. They are computed once.

    Args:
        context: The training.
        store: Store of features, shared with other trainings.
        cells: Features of the cells, which move to the device of the training.
    """
    part, cache = ast_part(context.recipe), FeatureCache(context, store)
    cells.to(context.device)

    def compute(index: int) -> Maps:
        inputs = as_tensors(context.samples.prepared(context.train[index]).inputs)
        return list(cells({name: tensor.to(context.device) for name, tensor in inputs.items()}))

    digest = features_digest(cells, part)
    keys = [cache.key(digest, files, context.recipe.modality) for files in context.train]
    return cache.computed("extract features", Features(keys, compute, context.device))


def features_digest(cells: Cells, part: AstRecipe) -> str:
    """Return the digest of the features of the cells for the keys of stored features."""
    taken = {"stages": part.extractor.stages, "layers": part.extractor.layers}
    fields = {"mode": part.mode, "geometry": part.geometry, "cell": part.cell, **taken}
    return extractor_digest(cells, {"family": "ast", **fields})


def channel_statistics(features: Features, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel over all cells of some samples, float32 `[C, 1, 1]` on the CPU.

    Args:
        features: Features of the training samples.
        samples: Indices of the samples.
    """
    total = squares = torch.zeros((), dtype=torch.float64)
    for index in samples:
        sample = features.batch([index])[0][0].double().cpu()
        total, squares = total + sample.mean((1, 2)), squares + sample.square().mean((1, 2))
    mean, square = total / len(samples), squares / len(samples)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    deviation = torch.where(deviation > LEAST_DEVIATION * square.sqrt(), deviation, torch.ones_like(deviation))
    return mean.float()[:, None, None], deviation.float()[:, None, None]
