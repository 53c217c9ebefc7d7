"""Project features on their principal components over good samples: those of all stages, or those of each stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

LEAST_SHARE = 1e-6
"""Share of the variance of all stages that a stage has at least when its weight is set, so that noise is not raised."""


@torch.no_grad()
def principal_directions(samples: Iterable[Tensor], width: int) -> Tensor:
    """Return the `width` directions along which rows vary most, orthonormal columns float32 `[C, width]`.

    Samples are read one by one, so that the rows of a whole training set are never in memory together.

    Args:
        samples: Rows float32 `[R, C]` of each sample; at least one sample.
        width: Number of directions, at most C.
    """
    _, vectors = torch.linalg.eigh(_scatter(samples)[0])  # ascending eigenvalues
    return vectors[:, -width:].flip(1).float().contiguous()


@torch.no_grad()
def stage_directions(samples: Iterable[Tensor], widths: Sequence[int], components: int | None) -> Tensor:
    """Return the directions along which the channels of each stage vary most, columns float32 `[C, K]`.

    No column mixes stages. The columns of a stage are orthogonal, and so long that the projected channels of the stage
    have a total variance of 1: the stages have the same weight in a distance. A stage that hardly varies has less.

    Args:
        samples: Rows float32 `[R, C]` of each sample; at least one sample.
        widths: Channels of each stage, C in total.
        components: Number of directions of all stages together; None takes all channels.
    """
    (scatter, count), blocks, start = _scatter(samples), list[Tensor](), 0
    least = LEAST_SHARE * scatter.trace().clamp(min=1e-24) / count
    for width, kept in zip(widths, stage_components(widths, components), strict=True):
        own = slice(start, start + width)
        values, vectors = torch.linalg.eigh(scatter[own, own] / count)  # ascending eigenvalues
        variance = torch.maximum(values[-kept:].sum(), least)
        blocks.append(vectors[:, -kept:].flip(1) / variance.sqrt())
        start += width
    return torch.block_diag(*blocks).float().contiguous()


def stage_components(widths: Sequence[int], components: int | None) -> tuple[int, ...]:
    """Return the number of directions of each stage: the same share for each, at most all of its channels.

    Args:
        widths: Channels of each stage.
        components: Number of directions of all stages together; None takes all channels.
    """
    share = max(widths) if components is None else max(1, components // len(widths))
    return tuple(min(width, share) for width in widths)


def _scatter(samples: Iterable[Tensor]) -> tuple[Tensor, int]:
    """Return the scatter matrix float64 `[C, C]` of all rows `[R, C]` around their mean, and the number of rows."""
    count = 0
    total, products = torch.zeros(()), torch.zeros(())
    for rows in samples:
        double = rows.double()
        count, total, products = count + len(rows), total + double.sum(0), products + double.T @ double
    return products - torch.outer(total, total) / count, count


def projection_layer(basis: Tensor) -> nn.Linear:
    """Return the layer `rows @ basis` of a basis `[C, width]`. Nothing is centred, so rows of zeros stay zeros."""
    channels, width = basis.shape
    layer = nn.Linear(channels, width, bias=False)
    layer.weight.data = basis.T.contiguous()
    return layer.requires_grad_(False)
