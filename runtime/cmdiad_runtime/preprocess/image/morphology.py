"""Morphology of masks."""

from __future__ import annotations

from cmdiad_runtime.sample import Mask


def grown(mask: Mask, radius: int) -> Mask:
    """Dilate a mask by an octagon, which is nearly a disc and fast: two of five steps reach the diagonal neighbours.

    Args:
        mask: Mask, bool `[h, w]`.
        radius: Distance along rows, columns and diagonals, pixels.
    """
    for step in range(radius):
        tall = mask.copy()
        tall[1:] |= mask[:-1]
        tall[:-1] |= mask[1:]
        source = tall.copy() if step % 5 in (1, 3) else mask
        tall[:, 1:] |= source[:, :-1]
        tall[:, :-1] |= source[:, 1:]
        mask = tall
    return mask
