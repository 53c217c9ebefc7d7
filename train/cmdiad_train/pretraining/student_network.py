"""The student in training: a small extractor and a linear layer that predicts the teacher's features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_train.extractors import TimmBackbone

COMPARED_PATCHES = 512
"""Largest number of patches of a step, or of a held-out image, whose distances from each other are compared."""


class Student(nn.Module):
    """A student and the linear layer from its features to the teacher's, in units of their standard deviations.

    Args:
        extractor: Trainable student.
        grid: Side of the teacher's grid.
        mean: Mean of the teacher's features `[C]`.
        scale: Standard deviations of the teacher's features `[C]`.
        seed: Seed of the linear layer.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, extractor: TimmBackbone, grid: int, mean: Tensor, scale: Tensor, *, seed: int) -> None:
        super().__init__()
        self.extractor, self.grid = extractor, grid
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(extractor.width, len(mean))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the student's features and its prediction of the teacher's features, on the teacher's grid.

        Args:
            images: Images `[B, size, size, 3]`, 0-255.

        Returns:
            Float32 `[B, T, C']` and `[B, T, C]`.
        """
        tokens = self.extractor(images)
        if self.extractor.grid != self.grid:
            planes = tokens.transpose(1, 2).unflatten(2, (self.extractor.grid, self.extractor.grid))
            tokens = F.adaptive_avg_pool2d(planes, self.grid).flatten(2).transpose(1, 2)
        return tokens.float(), self.head(tokens).float() * self.scale + self.mean

    def loss(self, images: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """Compute the error of the predicted features plus that of the distances between patches.

        Both are mean squared errors: of features in units of each channel's deviation, and of distances in units of
        their mean.

        Args:
            images: Images `[B, size, size, 3]`, 0-255.
            features: Teacher's features `[B, T, C]`.
            rows: Indices of the compared patches, int64 `[n]`, below B·T.
        """
        own, predicted = self(images)
        error = ((predicted - features) / self.scale).square().mean()
        return error + (distances(own, rows) - distances(features, rows)).square().mean()


def distances(features: Tensor, rows: Tensor) -> Tensor:
    """Return the Euclidean distances between all pairs of patches, in units of their mean (Park et al. 2019).

    Args:
        features: Features `[B, T, C]`.
        rows: Indices of the patches, int64 `[n]`, below B·T.

    Returns:
        Distances `[n·(n - 1) / 2]`.
    """
    pairwise = torch.pdist(features.flatten(0, 1)[rows])
    return pairwise / pairwise.mean().clamp(min=1e-12)


def evenly_spaced_rows(count: int) -> Tensor:
    """Return int64 indices of at most 512 of `count` patches, spread evenly."""
    return torch.arange(min(count, COMPARED_PATCHES)) * count // min(count, COMPARED_PATCHES)
