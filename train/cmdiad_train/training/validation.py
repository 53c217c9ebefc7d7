"""The samples of a training that choose its best epoch and are not trained on."""

from __future__ import annotations


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
