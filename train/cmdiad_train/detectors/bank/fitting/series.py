"""Series of training samples that show the same placement of a part, found by the order of recording.

A sample whose near copies stay in the bank scores like a copy, not like the next part. If most samples resemble the
sample that was recorded next to them, whole series are left out together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from cmdiad_train.detectors.bank.features.compared import Patches

MOST_CHANCE = 1e-4
"""Largest probability that samples without an order resemble their neighbours as often."""
LEAST_SHARE = 0.25
"""Least share of samples that resemble their neighbour most, for a series to matter."""
MOST_OF_ALL = 5
"""A series has at most one fifth of the samples; a longer one is divided, so that a bank remains."""
_BLOCK = 4  # cells of the grid that are averaged along each side
_NEAR = 8  # samples before and after one that may belong to its series


def series_of(features: Tensor) -> list[int]:
    """Return the number of the series of each sample; without series every sample has a different number.

    Without an order of recording, the most similar other sample is a neighbour with the probability 2/(n-1). Two
    neighbours belong to one series if they are more similar than a sample usually is to the most similar one of those
    recorded at another time.

    Args:
        features: One vector for each sample, float32 `[n, C]`, in the order of recording.
    """
    count = len(features)
    if count < 3:
        return list(range(count))
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    index = torch.arange(count)
    apart = (index[:, None] - index).abs()
    neighbours = int((apart[index, distances.argmin(1)] == 1).sum())
    by_chance = binom.sf(neighbours - 1, count, 2 / (count - 1))
    if by_chance > MOST_CHANCE or neighbours < LEAST_SHARE * count:
        return list(range(count))
    others = distances.masked_fill(apart <= _NEAR, torch.inf).amin(1)
    others = others[others.isfinite()]
    usual = float(others.median()) if len(others) else float("inf")
    cut = distances[index[:-1], index[1:]] >= usual
    return _divided([0, *cut.cumsum(0).tolist()], max(1, count // MOST_OF_ALL))


def in_order(names: Sequence[str]) -> list[int]:
    """Return the positions of names in the order of recording: alphabetical, numbers by value."""
    parts = [[(int(p), "") if i % 2 else (-1, p) for i, p in enumerate(re.split(r"(\d+)", name))] for name in names]
    return sorted(range(len(names)), key=parts.__getitem__)


def averaged(patches: Sequence[Patches]) -> Tensor:
    """Return one vector float32 `[C]` of the parts in a picture: features averaged over blocks of cells."""
    vectors = []
    for rows, cells in patches:
        side = round(len(cells) ** 0.5)
        kept = side // _BLOCK * _BLOCK or side
        grid = rows.float()[cells].reshape(side, side, -1)[:kept, :kept]
        blocks = kept // _BLOCK or 1
        vectors.append(grid.reshape(blocks, kept // blocks, blocks, kept // blocks, -1).mean((1, 3)).flatten())
    return torch.cat(vectors)


def _divided(series: Sequence[int], longest: int) -> list[int]:
    """Return the series with those that have more than `longest` samples divided evenly, numbered from 0."""
    pieces = []
    for _, group in groupby(series):
        samples = np.arange(len(list(group)))
        pieces += [len(piece) for piece in np.array_split(samples, -(-len(samples) // longest))]
    return np.repeat(np.arange(len(pieces)), pieces).tolist()
