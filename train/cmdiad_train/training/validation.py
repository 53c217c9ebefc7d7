"""Samples that a training leaves out: those that choose its best epoch, and those of the folds."""

from __future__ import annotations

import numpy as np


def split(count: int, share: float) -> tuple[list[int], list[int]]:
    """Return the indices of training and validation samples, spread evenly; no validation if there are few samples.

    Args:
        count: Number of samples.
        share: Share of the samples that validate, in [0, 1). A share above 0 takes at least one of four samples.
    """
    held = int(share * count)
    if share and held == 0 and count >= 4:
        held = 1
    validating = [(2 * i + 1) * count // (2 * held) for i in range(held)]
    return [i for i in range(count) if i not in set(validating)], validating


def random_folds(count: int, folds: int, *, seed: int) -> list[list[int]]:
    """Return the indices of the samples of each fold, in random order; every sample is in one fold.

    Recordings often repeat a series of poses. Every second or third sample would be the same poses again, which the
    networks of the fold would then never have seen.

    Args:
        count: Number of samples.
        folds: Number of folds, at most `count`.
        seed: Seed of the order.
    """
    order = np.random.default_rng(seed).permutation(count).tolist()
    return [order[fold::folds] for fold in range(folds)]
