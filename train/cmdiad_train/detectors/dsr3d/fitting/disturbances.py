"""Anomalies of codes: inside a mask, codes are replaced by other ones (3DSR, arXiv 2311.01117)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.detectors.dsr3d.networks.code_book import CodeBook, rows_of

_NEAREST_LEFT_OUT = 0.05
"""Share of the codes, the nearest ones, that never replace a code: they would look the same."""
_SHUFFLES = 0.5
"""Probability that the codes of a batch are shuffled instead of replaced."""
_PATCHES = (1, 2, 4, 8)


def disturbed(
    features: Tensor,
    codes: Tensor,
    book: CodeBook,
    mask: Tensor,
    strengths: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """Return codes `[B, C, h, w]` that differ inside a mask: replaced, or in half of the batches shuffled.

    Args:
        features: Features that the codes replaced, `[B, C, h, w]`.
        codes: Nearest codes, of the same shape.
        book: Their code book.
        mask: 1 inside, else 0, `[B, 1, H, W]`; a cell is inside if one of its pixels is.
        strengths: Strength of each sample, 0 to 1.
        generator: CPU generator of all random draws.
    """
    inside = cells_inside(mask, codes.shape[-1])
    if float(torch.rand((), generator=generator)) < _SHUFFLES:
        side = _PATCHES[int(torch.randint(len(_PATCHES), (), generator=generator))]
        side = min(side, codes.shape[-1])
        patches = (codes.shape[-1] // side) ** 2
        orders = [torch.randperm(patches, generator=generator) for _ in codes]
        return torch.where(inside[:, None], shuffled(codes, side, orders), codes)
    picks = []
    for cells, strength in zip(inside, strengths, strict=True):
        first, end = ranks(strength, len(book.codes))
        picks.append(torch.randint(first, end, (int(cells.sum()),), generator=generator))
    return replaced(features, codes, book.codes, inside, picks)


def cells_inside(mask: Tensor, grid: int) -> Tensor:
    """Return the cells that touch a mask `[B, 1, H, H]`, bool `[B, grid, grid]`."""
    return F.max_pool2d(mask, mask.shape[-1] // grid)[:, 0] > 0


def ranks(strength: float, count: int) -> tuple[int, int]:
    """Return the first rank, and the one after the last, of codes by distance that may replace a code.

    Args:
        strength: Share of the codes, the nearest ones, that may be chosen.
        count: Number of codes.
    """
    first = int(_NEAREST_LEFT_OUT * count)
    return first, max(first + 1, min(int(strength * count) + 1, count - 1))


def replaced(features: Tensor, codes: Tensor, book: Tensor, inside: Tensor, picks: Sequence[Tensor]) -> Tensor:
    """Return codes `[B, C, h, w]`, inside the mask replaced by codes of given ranks.

    Args:
        features: Features `[B, C, h, w]`, from which distances are measured.
        codes: Codes of the same shape.
        book: All codes, `[K, C]`.
        inside: Cells to replace, bool `[B, h, w]`.
        picks: Rank by distance of the new code, 0 for the nearest, of each cell inside, int64 `[cells]` per sample.
    """
    changed = codes.clone()
    for sample, (cells, pick) in enumerate(zip(inside, picks, strict=True)):
        if len(pick):
            rows = rows_of(features[sample : sample + 1])[cells.flatten()]
            squared = rows.square().sum(1, keepdim=True) + book.square().sum(1) - 2 * rows @ book.T
            index = squared.argsort(dim=1).gather(1, pick.to(rows.device)[:, None])[:, 0]
            changed[sample][:, cells] = book[index].T
    return changed


def shuffled(codes: Tensor, side: int, orders: Sequence[Tensor]) -> Tensor:
    """Return codes `[B, C, h, w]` whose patches are in another order.

    Args:
        codes: Codes.
        side: Side of a patch in cells.
        orders: For each sample the patch that each place takes, row by row, int64 `[(h / side)·(w / side)]`.
    """
    patches = F.unfold(codes, side, stride=side)
    mixed = torch.stack([one[:, order.to(one.device)] for one, order in zip(patches, orders, strict=True)])
    return F.fold(mixed, codes.shape[-2:], side, stride=side)
