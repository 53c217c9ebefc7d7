"""The linear layer that brings an extractor's features to their principal components over good samples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def principal_directions(samples: Iterable[Tensor], width: int) -> Tensor:
    """The `width` directions along which rows vary most, orthonormal columns float32 `[C, width]`.

    Samples are read one by one, so that rows of a whole training set never lie in memory together.

    Args:
        samples: rows float32 `[R, C]` of each, at least one.
        width: at most C.
    """
    count = 0
    total, products = torch.zeros(()), torch.zeros(())
    for rows in samples:
        double = rows.double()
        count, total, products = count + len(rows), total + double.sum(0), products + double.T @ double
    _, vectors = torch.linalg.eigh(products - torch.outer(total, total) / count)  # ascending eigenvalues
    return vectors[:, -width:].flip(1).float().contiguous()


def projection_layer(basis: Tensor) -> nn.Linear:
    """The layer `rows @ basis` of a basis `[C, width]`. It does not centre: rows of zeros stay so, distances too."""
    channels, width = basis.shape
    layer = nn.Linear(channels, width, bias=False)
    layer.weight.data = basis.T.contiguous()
    return layer.requires_grad_(False)
