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
_NEIGHBOURS = (1, 3)  # samples before and after one that count as its neighbours: those of a short and of a long series
_BLOCK = 4  # cells of the grid that are averaged along each side


def series_of(features: Tensor, longest: int) -> list[int]:
    """Return the number of the series of each sample; without series every sample has a different number.

    Without an order of recording, the most similar other sample is one of the k samples before and after with the
    probability 2k/(n-1). Two neighbours belong to one series if they are more similar than a sample usually is to the
    most similar one of those recorded at another time.

    Args:
        features: One vector for each sample, float32 `[n, C]`, in the order of recording.
        longest: Largest number of samples of a series; a longer one is divided.
    """
    count = len(features)
    alone = list(range(count))
    if longest <= 1 or count <= 2 * longest:
        return alone
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    index = torch.arange(count)
    apart = (index[:, None] - index).abs()
    nearest = apart[index, distances.argmin(1)]
    if not any(_is_ordered(int((nearest <= near).sum()), count, near) for near in _NEIGHBOURS):
        return alone
    usual = float(distances.masked_fill(apart <= longest, torch.inf).amin(1).median())
    cut = distances[index[:-1], index[1:]] >= usual
    return _divided([0, *cut.cumsum(0).tolist()], longest)


def _is_ordered(neighbours: int, count: int, near: int) -> bool:
    """Return True if more samples than by chance are most similar to one of the `near` samples before and after."""
    by_chance = binom.sf(neighbours - 1, count, min(1.0, 2 * near / (count - 1)))
    return bool(by_chance <= MOST_CHANCE and neighbours >= LEAST_SHARE * count)


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
    pieces: list[int] = []
    for _, group in groupby(series):
        length = len(list(group))
        pieces += [len(piece) for piece in np.array_split(np.arange(length), -(-length // longest))]
    return [number for number, piece in enumerate(pieces) for _ in range(piece)]
