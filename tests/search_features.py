"""Banks and queries of several kinds of difficulty, and all distances between them."""

from __future__ import annotations

import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def features(kind: str) -> tuple[Tensor, Tensor]:
    """A bank `[300, 48]` and queries `[64, 48]` of one kind of difficulty."""
    rows, queries = noise(300, 48), noise(64, 48, seed=1)
    if kind == "common offset":  # as an untrained or linear network gives: all vectors point one way
        offset = 30 * noise(48, seed=2)
        return 0.05 * rows + offset, 0.05 * queries + offset
    if kind == "outlier channel":
        scale = torch.ones(48)
        scale[7] = 40
        return rows * scale, queries * scale
    if kind == "copies":  # queries that are in the bank
        return rows, rows[:64].clone()
    return rows, queries


KINDS = ["plain", "common offset", "outlier channel", "copies"]


def exact(rows: Tensor, queries: Tensor) -> Tensor:
    """Distances float64 `[T, K]` by differences."""
    return (queries.double()[:, None] - rows.double()[None]).square().sum(2).sqrt()


def low_rank_features() -> tuple[Tensor, Tensor]:
    """A bank and queries with most of their variance in 10 of 48 dimensions, as real features have."""
    mix = noise(10, 48, seed=3)
    return noise(2000, 10) @ mix + 0.2 * noise(2000, 48, seed=5), noise(64, 10, seed=4) @ mix + 0.2 * noise(64, 48)
