"""The linear layer that projects features on their principal components over good samples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def principal_directions(samples: Iterable[Tensor], width: int) -> Tensor:
    """Return the `width` directions along which rows vary most, orthonormal columns float32 `[C, width]`.

    Samples are read one by one, so that the rows of a whole training set are never in memory together.

    Args:
        samples: Rows float32 `[R, C]` of each sample; at least one sample.
        width: Number of directions, at most C.
    """
    count = 0
    total, products = torch.zeros(()), torch.zeros(())
    for rows in samples:
        double = rows.double()
        count, total, products = count + len(rows), total + double.sum(0), products + double.T @ double
    _, vectors = torch.linalg.eigh(products - torch.outer(total, total) / count)  # ascending eigenvalues
    return vectors[:, -width:].flip(1).float().contiguous()


def projection_layer(basis: Tensor) -> nn.Linear:
    """Return the layer `rows @ basis` of a basis `[C, width]`. Nothing is centred, so rows of zeros stay zeros."""
    channels, width = basis.shape
    layer = nn.Linear(channels, width, bias=False)
    layer.weight.data = basis.T.contiguous()
    return layer.requires_grad_(False)
