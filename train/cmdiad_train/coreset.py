"""Which rows a memory bank keeps: sparse random projection and greedy k-centre (REFERENCE §11)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from sklearn.random_projection import SparseRandomProjection
from torch import Tensor

Progress = Callable[[int, int], None]
Step = Callable[[int], int]
"""Takes the row selected last, returns the next."""


def project(rows: Tensor, *, eps: float, seed: int) -> Tensor:
    """Rows `[n, C]` after a sparse random projection to the Johnson-Lindenstrauss width for `eps`.

    Unprojected where that width would exceed C, as published.
    """
    components = projection_matrix(rows.shape, eps=eps, seed=seed)
    if components is None:
        return rows
    return torch.from_numpy(np.ascontiguousarray((components @ rows.numpy().T).T, dtype=np.float32))


def projection_matrix(shape: tuple[int, ...] | torch.Size, *, eps: float, seed: int) -> scipy.sparse.csr_matrix | None:
    """The projection `[k, C]` for rows of `shape` (n, C), or None where k would exceed C."""
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
    """Indices int64 `[count]` of a greedy k-centre selection from rows float32 `[n, k]`, in order of selection.

    Starts with row 0; then always the row farthest from those selected, ties to the lowest index.

    Args:
        half: keep distances and rows in float16 after the first round, as published; many exact ties follow.
        progress: called as `progress(done, count)` now and then.
    """
    selected = np.zeros(count, dtype=np.int64)
    step = _published_step(rows) if half else _exact_step(rows)
    last = 0
    for i in range(1, count):
        last = step(last)
        selected[i] = last
        if progress is not None and (i % 64 == 0 or i == count - 1):
            progress(i + 1, count)
    return selected


def _published_step(rows: Tensor) -> Step:
    """Distances by differences, rounded to float16 twice as the published code does (REFERENCE §11.2)."""
    distance = torch.linalg.norm(rows - rows[:1], dim=1).half()
    rows = rows.half()

    def step(last: int) -> int:
        torch.minimum(torch.linalg.norm(rows - rows[last : last + 1], dim=1), distance, out=distance)
        chosen = int(distance.argmax())
        distance[chosen] = 0
        return chosen

    return step


def _exact_step(rows: Tensor) -> Step:
    """Squared distances in float32 with the norms expanded, so that one matrix-vector product does the work."""
    squares = rows.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)

    def step(last: int) -> int:
        squared = torch.addmv(squares, rows, rows[last], alpha=-2)
        torch.minimum(squared.add_(squares[last]), nearest, out=nearest)
        nearest[last] = 0
        return int(nearest.argmax())

    return step


def covering_radius(rows: Tensor, selected: npt.NDArray[np.int64]) -> float:
    """The largest distance of any row to its nearest selected row, the objective of the selection."""
    chosen = rows[torch.from_numpy(selected)]
    nearest = [torch.cdist(block, chosen).amin(1).max() for block in rows.split(4096)]
    return float(torch.stack(nearest).max())
