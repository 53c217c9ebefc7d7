"""Contrastive alignment of hallucinated features with their targets: a further loss while F2F is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.07
"""Divisor of the similarities of hallucinated rows and targets."""
TARGET_TEMPERATURE = 0.1
"""Divisor of the similarities of targets with each other, which decide how far two rows count as a pair."""
MOST_ROWS = 1024
"""Largest number of rows of a batch that are compared, drawn at random."""
_WIDTH, _ALIGNED = 256, 128


class Alignment(nn.Module):
    """Symmetric InfoNCE between hallucinated rows and targets, in a space of 128 channels.

    A head for each of both makes unit vectors. A row must be more similar to its own target than to those of other
    rows. Normal textures repeat, so rows of similar targets are no opposites: the loss is the cross-entropy against
    the softmax of the cosines of the targets. Sources: InfoNCE, van den Oord et al. 2018 (arXiv 1807.03748); in both
    directions, Radford et al. 2021 (arXiv 2103.00020). The heads are used in training only.

    Args:
        width: Channels of hallucinated features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hallucinated, self.target = _head(width), _head(width)

    def forward(self, hallucinated: Tensor, target: Tensor) -> Tensor:
        """Return the loss `[]`, the mean over rows and both directions.

        Args:
            hallucinated: Hallucinated rows `[n, width]`, centred and scaled as the targets.
            target: Target rows `[n, width]`, whose mean over the training set is 0.
        """
        cosines = F.normalize(target, dim=1) @ F.normalize(target, dim=1).T
        expected = F.softmax(cosines / TARGET_TEMPERATURE, dim=1)
        similarities = self.aligned(self.hallucinated, hallucinated) @ self.aligned(self.target, target).T / TEMPERATURE
        return (F.cross_entropy(similarities, expected) + F.cross_entropy(similarities.T, expected)) / 2

    @staticmethod
    def aligned(head: nn.Module, rows: Tensor) -> Tensor:
        """Return the unit vectors `[n, 128]` that a head makes of rows."""
        return F.normalize(head(rows), dim=1)


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _ALIGNED))


def rows_to_compare(fed: Tensor, generator: torch.Generator) -> Tensor:
    """Return the indices int64 of up to `MOST_ROWS` rows of the part, in random order.

    Args:
        fed: Input of the network, `[n, C]` or with a context `[n, side², C]`; zeros for the background.
        generator: Source of randomness, on the CPU.
    """
    on_part = (fed.flatten(1).abs().amax(1) > 0).nonzero()[:, 0]
    return on_part[torch.randperm(len(on_part), generator=generator)[:MOST_ROWS].to(on_part.device)]
