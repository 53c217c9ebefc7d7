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
    distance = torch.linalg.norm(rows - rows[:1], dim=1)
    if half:
        rows, distance = rows.half(), distance.half()
        step = _published_step
    else:
        step = _exact_step
    state = _StepState(rows, distance)
    last = 0
    for i in range(1, count):
        last = step(state, last)
        selected[i] = last
        if progress is not None and (i % 64 == 0 or i == count - 1):
            progress(i + 1, count)
    return selected


class _StepState:
    """The rows, each row's distance to the nearest selected one, and a buffer of squared norms."""

    def __init__(self, rows: Tensor, distance: Tensor) -> None:
        self.rows = rows
        self.distance = distance
        self.squares = (rows.float() ** 2).sum(1)


def _published_step(state: _StepState, last: int) -> int:
    """Distances by differences, rounded to float16 twice as the published code does (REFERENCE §11.2)."""
    to_last = torch.linalg.norm(state.rows - state.rows[last : last + 1], dim=1)
    torch.minimum(to_last, state.distance, out=state.distance)
    chosen = int(torch.argmax(state.distance))
    state.distance[chosen] = 0
    return chosen


def _exact_step(state: _StepState, last: int) -> int:
    """The same in float32, squared norms expanded so that one matrix-vector product does the work."""
    squared = torch.addmv(state.squares, state.rows, state.rows[last], alpha=-2).add_(state.squares[last])
    torch.minimum(squared.clamp_(min=0).sqrt_(), state.distance, out=state.distance)
    state.distance[last] = 0
    return int(torch.argmax(state.distance))


def covering_radius(rows: Tensor, selected: npt.NDArray[np.int64]) -> float:
    """The largest distance of any row to its nearest selected row, the objective of the selection."""
    chosen = rows[torch.from_numpy(selected)]
    nearest = [torch.cdist(block, chosen).amin(1).max() for block in rows.split(4096)]
    return float(torch.stack(nearest).max())
