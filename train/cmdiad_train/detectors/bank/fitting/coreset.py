"""Which rows a memory bank keeps: sparse random projection and greedy k-centre (method §11).

The plain greedy walks over every row for every pick: 2·10¹³ multiply-adds for a class of 223 samples, and all of
the rows read from memory each time. Three savings make the same picks in minutes:

1. Lazy rounds. Distances to the selected rows only ever shrink. So the next picks are made among the few thousand
   farthest rows alone, for as long as the farthest of them is at least as far as any other row was when the round
   began. Then the other rows meet all picks of the round in one matrix product.
2. Settled rows. A pick lies at least τ from everything selected before it. By the triangle inequality it cannot come
   nearer than τ/2 to a row that lies within τ/2 of a selected one: such rows are left out of the product.
3. In float16, a product in float32 tells which pairs can shorten a distance; only those are measured in float16,
   exactly as the published code does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from sklearn.random_projection import SparseRandomProjection
from torch import Tensor

Progress = Callable[[int, int], None]
"""Takes the rows selected and those to select. The caller, who knows the name of the bank, passes them on."""

PROJECTED_AT_ONCE = 1024
CANDIDATES = 4096
BLOCK_VALUES = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Distances computed at once: as many as fit the cache of a processor, or keep a GPU busy."""
PAIRS_AT_ONCE = 1 << 16
ROWS_AT_ONCE = 4096

HALF_MARGIN = 1.0025
"""Above (1 + 2⁻¹¹)⁴: the rounding of two float16 distances, each of its differences, on their squares' quotient."""
SETTLED = 0.49
"""Half of τ, less a margin for the same rounding."""


def project(rows: Tensor, *, eps: float, seed: int) -> Tensor:
    """Return rows `[n, C]` after a sparse random projection to the Johnson-Lindenstrauss width for `eps`.

    Unprojected where that width would exceed C, as published.
    """
    components = projection_matrix(rows.shape, eps=eps, seed=seed)
    if components is None:
        return rows
    projected = torch.empty(len(rows), components.shape[0], device=rows.device)
    for block, out in zip(rows.split(PROJECTED_AT_ONCE), projected.split(PROJECTED_AT_ONCE), strict=True):
        out.copy_(torch.from_numpy((components @ block.cpu().numpy().T).T))
    return projected


def projection_matrix(shape: tuple[int, ...] | torch.Size, *, eps: float, seed: int) -> scipy.sparse.csr_matrix | None:
    """Return the projection `[k, C]` for rows of `shape` (n, C), or None if k would exceed C."""
    transformer = SparseRandomProjection(eps=eps, random_state=seed)
    try:
        transformer.fit(np.empty(tuple(shape), dtype=np.bool_))  # fit looks at the shape alone
    except ValueError:
        return None
    return scipy.sparse.csr_matrix(transformer.components_, dtype=np.float32)


@torch.no_grad()
def greedy_coreset(
    rows: Tensor, count: int, *, half: bool = False, progress: Progress | None = None
) -> npt.NDArray[np.int64]:
    """Return the indices int64 `[count]` of a greedy k-centre selection, in order of selection.

    The first pick is row 0. Each further pick is the row that is farthest from all picks so far, and the one with the
    lowest index among equally far rows. As soon as every row equals a pick, the remaining picks are row 0.

    Where two rows are equally far within the rounding of float32, the pick may differ from that of the plain greedy
    search. With `half` on a processor the picks never differ.

    Args:
        rows: Rows float32 `[n, k]`, on a processor or a CUDA device.
        count: Number of rows to select.
        half: True to keep distances and rows in float16 after the first round, as published; many exact ties follow.
        progress: Function that is called as `progress(done, count)` after every round.

    Raises:
        ValueError: Rows are not finite, in float16 if `half` is set.
    """
    space = _half_space(rows) if half else _single_space(rows)
    if not math.isfinite(space.slack):
        raise ValueError("rows to select from must be finite" + (", in float16 too" if half else ""))
    selected = torch.zeros(count, dtype=torch.int64, device=rows.device)
    done = 1
    for picks in _picks(space, _from_first(space, rows), count - 1):
        selected[done : done + len(picks)] = picks
        done += len(picks)
        if progress is not None:
            progress(done, count)
    if progress is not None and done < count:
        progress(count, count)
    return selected.cpu().numpy()


class SelectionsWithout:
    """Greedy selections as if the rows of one owner did not exist, made from the selection among all rows.

    Such a selection keeps the picks of the other owners. Then the rows of others that are farthest from all picks are
    picked greedily until the selection has the requested size. Most of them lie where picks of the owner covered
    rows of others. A selection from scratch differs in the order of its picks, but covers the rows as well, if there
    is room for about as many new picks as the owner had.

    Selecting all over again for each owner would cost the first selection once per owner. Here the product of all
    rows with all picks is computed once, and each owner costs the greedy picks that replace those of the owner.

    Args:
        rows: Rows float32 `[n, k]`, as passed to `greedy_coreset`.
        owners: Owner of each row, int64 `[n]`.
        selected: Selection among all rows, or the first rows of the selection, int64 `[K]`, in order of selection.
    """

    def __init__(self, rows: Tensor, owners: Tensor, selected: Tensor) -> None:
        self._space, self._owners, self._selected = _single_space(rows), owners, selected
        self._nearest, self._nearest_owner, self._next = self._distances()

    def _distances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return squared distances to the nearest pick, its owner, and distances to the nearest pick of others."""
        owners, mirrored = self._owners[self._selected], self._space.mirrored(self._selected)
        results = []
        for block in self._space.rows.split(max(1, BLOCK_VALUES[owners.device.type] // len(owners))):
            squared = (block @ mirrored).clamp_(min=0)
            nearest, pick = squared.min(1)
            owner = owners[pick]
            squared.masked_fill_(owners == owner[:, None], torch.finfo(squared.dtype).max)  # inf would settle every row
            results.append((nearest, owner, squared.amin(1)))
        nearest, owner, following = (torch.cat(values) for values in zip(*results, strict=True))
        return nearest, owner, following

    def without(self, owner: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the positions in `selected` of the picks that stay, and the further picks among rows of others.

        Both are int64 and together at most `count`: fewer if all other rows equal a pick.
        """
        stays = (self._owners[self._selected] != owner).nonzero()[:count, 0]
        nearest = torch.where(self._nearest_owner == owner, self._next, self._nearest)
        nearest[self._owners == owner] = 0
        nearest[self._selected[stays]] = 0
        picks = [*_picks(self._space, nearest, count - len(stays))]
        return stays, torch.cat(picks) if picks else stays[:0]


def _picks(space: _Space, nearest: Tensor, count: int) -> Iterator[Tensor]:
    """Yield greedy picks, int64, round by round: at most `count`, fewer as soon as every row equals a pick.

    Args:
        space: Rows to pick from.
        nearest: Distance of each row to the nearest row selected so far; changed in place.
        count: Number of rows to pick.
    """
    while count > 0 and float(nearest.max()) > 0:
        picks, reach = _pick(space, _farthest(nearest, min(CANDIDATES, 8 * count)), nearest, count)
        count -= len(picks)
        if count > 0:
            _shorten_all(nearest, space, picks, reach)
        yield picks


@dataclass(frozen=True)
class _Space:
    """Rows and how their distances are measured.

    A row's distance to the nearest selected one is kept squared in float32, or as it is in float16 (`half`).

    Attributes:
        rows: float32 `[n, k + 2]`: centred rows x, |x|² and 1, so that one product gives |x|² - 2xc + |c|².
        half: float16 `[n, k]`, what distances are measured between in the published form, else None.
        slack: how far rounding can take such a product from the square.
        rounding: how far rounding the rows to float16 can take their distances.
    """

    rows: Tensor
    half: Tensor | None
    slack: float
    rounding: float

    def mirrored(self, index: Tensor) -> Tensor:
        """Return the rows of an index `[i]` as the other side of the product, float32 `[k + 2, i]`."""
        chosen = self.rows[index]
        return torch.cat([-2 * chosen[:, :-2], chosen[:, -1:], chosen[:, -2:-1]], 1).T


def _single_space(rows: Tensor) -> _Space:
    centred = (
        rows - rows.mean(0).bfloat16()
    )  # rounding is relative to norms; a coarse centre keeps equal distances equal
    squares = centred.square().sum(1, keepdim=True)
    # |fl(a·b) - a·b| <= kε|a||b| (Higham 2002, §3.1) for the three terms of an expanded square, |a|, |b| <= max|x|.
    slack = 4 * (rows.shape[1] + 8) * 2**-24 * float(squares.max())
    return _Space(torch.cat([centred, squares, torch.ones_like(squares)], 1), None, slack, 0.0)


def _half_space(rows: Tensor) -> _Space:
    half = rows.half()
    single = _single_space(half.float())
    rounding = max(float((block - block.half()).norm(dim=1).max()) for block in rows.split(ROWS_AT_ONCE))
    return _Space(single.rows, half, single.slack, 2 * rounding)


def _from_first(space: _Space, rows: Tensor) -> Tensor:
    """Return the distances `[n]` to row 0."""
    if space.half is None:
        first = torch.zeros(1, dtype=torch.int64, device=rows.device)
        return (space.rows @ space.mirrored(first))[:, 0].clamp_(min=0)
    distance = torch.linalg.norm(rows - rows[:1], dim=1).half()
    return torch.minimum(distance, torch.linalg.norm(space.half - space.half[:1], dim=1))


def _farthest(nearest: Tensor, most: int) -> Tensor:
    """Return the rows that a round picks from, in order: all that are as far as the last of the `most` farthest.

    If equal distances would make that more than twice as many rows, return one row.
    """
    if len(nearest) <= most:
        return torch.arange(len(nearest), device=nearest.device)
    least = nearest.topk(most, sorted=False).values.min()
    index = (nearest >= least).nonzero()[:, 0]
    return index if len(index) <= 2 * most else nearest.argmax()[None]


def _pick(space: _Space, candidates: Tensor, nearest: Tensor, count: int) -> tuple[Tensor, float]:
    """Up to `count` picks among candidates, while one of them is as far as any other row can be.

    Returns:
        The picks, int64, and the distance of the last of them before it was picked.
    """
    near = nearest[candidates]
    apart = (space.rows[candidates] @ space.mirrored(candidates)).clamp_(min=0)
    floor, reach = float(near.min()), torch.inf
    picks: list[int] = []
    while len(picks) < count:
        pick = int(near.argmax())
        distance = float(near[pick])
        if distance < floor or distance == 0:
            break
        _shorten(near, apart[pick, :, None], space, candidates, candidates[pick : pick + 1])
        near[pick] = 0
        picks.append(pick)
        reach = distance
    nearest[candidates] = near
    return candidates[picks], reach


def _shorten_all(nearest: Tensor, space: _Space, picks: Tensor, reach: float) -> None:
    """Bring `nearest` of all rows up to date with the picks of a round, block by block."""
    mirrored = space.mirrored(picks)
    size = max(1, BLOCK_VALUES[nearest.device.type] // len(picks))
    for index in (nearest > _settled(space, reach)).nonzero()[:, 0].split(size):
        near = nearest[index]
        _shorten(near, (space.rows[index] @ mirrored).clamp_(min=0), space, index, picks)
        nearest[index] = near


def _settled(space: _Space, reach: float) -> float:
    """Rows no farther than this from a selected one cannot come nearer to a pick that was `reach` from them all."""
    if space.half is None:
        return SETTLED**2 * reach - 2 * space.slack
    return SETTLED * reach - space.rounding


def _shorten(nearest: Tensor, squared: Tensor, space: _Space, index: Tensor, picks: Tensor) -> None:
    """Shorten the distances `nearest` `[i]` of the rows of `index` to picks, whose products are `squared` `[i, p]`."""
    closest = squared.amin(1)
    if space.half is None:
        torch.minimum(nearest, closest, out=nearest)
        return
    bound = torch.minimum(nearest.float().square(), closest + 2 * space.slack) * HALF_MARGIN + space.slack
    for pairs in (squared < bound[:, None]).nonzero().split(PAIRS_AT_ONCE):
        row, pick = pairs.T
        distance = torch.linalg.norm(space.half[index[row]] - space.half[picks[pick]], dim=1)
        nearest.scatter_reduce_(0, row, distance, "amin")


def covering_radius(rows: Tensor, selected: npt.NDArray[np.int64]) -> float:
    """Return the largest distance of any row to its nearest selected row, the objective of the selection."""
    return float(distance_to_nearest(rows, rows[torch.from_numpy(selected).to(rows.device)]).max())


@torch.no_grad()
def distance_to_nearest(rows: Tensor, chosen: Tensor) -> Tensor:
    """Return distances float32 `[n]` of rows `[n, k]` to the nearest chosen row `[c, k]`, without any shortcut."""
    nearest = torch.full((len(rows),), torch.inf, device=rows.device)
    for part in chosen.split(ROWS_AT_ONCE):
        for block, out in zip(rows.split(ROWS_AT_ONCE), nearest.split(ROWS_AT_ONCE), strict=True):
            torch.minimum(out, torch.cdist(block, part).amin(1), out=out)
    return nearest
