"""A memory of rows of good samples, and the sparse coding of a vector with its nearest rows.

Source: Shape-Guided (ICML 2023). Orthogonal matching pursuit as in scikit-learn, unrolled: residuals against an
orthonormal basis of the chosen rows take the place of the normal equations, which have the same solution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PUBLISHED_STOP = 1.1920929e-07
"""The published pursuit ends at a squared correlation or a pivot at or below this, whatever the scale of the codes."""
RELATIVE_STOP = 1e-10
"""The normalised pursuit ends there relative to the squared lengths of code and row."""
FORBIDDEN = -1e30
"""Key of a row that must not be chosen."""


class Pursuit(nn.Module):
    """Rebuilds vectors from at most a few of their neighbours.

    The published rule prefers long rows, so it can miss an exact copy of the vector among the neighbours. The
    normalised rule compares directions. A vector of which nothing can be rebuilt becomes the nearest neighbour under
    the normalised rule and 0 under the published one.

    Args:
        atoms: Largest number of neighbours in a sum.
        normalised: True for the normalised rule.
    """

    def __init__(self, atoms: int, *, normalised: bool) -> None:
        super().__init__()
        self._atoms, self._normalised = atoms, normalised

    def forward(self, vectors: Tensor, neighbours: Tensor) -> Tensor:
        """Return rebuilt vectors float32 `[P, C]`.

        Args:
            vectors: Vectors float32 `[P, C]`.
            neighbours: Rows float32 `[P, K, C]`, nearest first.
        """
        squares = neighbours.square().sum(2)  # [P, K]
        numbers = torch.arange(neighbours.shape[1], device=vectors.device)
        taken, basis = torch.zeros_like(squares), list[Tensor]()
        alive = torch.ones_like(squares[:, :1])
        residual = vectors
        for _ in range(self._atoms):
            correlation = (neighbours @ residual[:, :, None])[..., 0].square()  # [P, K]
            merit = correlation / squares.clamp(min=1e-30) if self._normalised else correlation
            ranks = merit if basis or not self._normalised else -_squared_distances_to_lines(vectors, neighbours)
            one_hot = (ranks.argmax(1, keepdim=True) == numbers).float()  # [P, K]
            atom = (one_hot[:, None] @ neighbours)[:, 0]  # [P, C]
            own = atom
            for _ in range(2):  # the second pass removes the rounding of the first
                for direction in basis:
                    own = own - direction * (direction * own).sum(1, keepdim=True)
            pivot = own.square().sum(1, keepdim=True)
            alive = alive * self._goes_on(one_hot, taken, merit, pivot, squares, vectors)
            direction = own * alive / pivot.clamp(min=1e-30).sqrt()
            basis.append(direction)
            taken = taken + one_hot * alive
            residual = residual - direction * (direction * residual).sum(1, keepdim=True)
        rebuilt = vectors - residual
        if self._normalised:
            rebuilt = torch.where(taken.sum(1, keepdim=True) > 0, rebuilt, neighbours[:, 0])
        return rebuilt

    def _goes_on(
        self, one_hot: Tensor, taken: Tensor, merit: Tensor, pivot: Tensor, squares: Tensor, vectors: Tensor
    ) -> Tensor:
        """Return 1 where the row with the largest merit is added, else 0, float32 `[P, 1]`."""
        new = (one_hot * taken).sum(1, keepdim=True) == 0
        best = merit.amax(1, keepdim=True)
        if self._normalised:
            square = (one_hot * squares).sum(1, keepdim=True)
            enough = (best > RELATIVE_STOP * vectors.square().sum(1, keepdim=True)) & (pivot > RELATIVE_STOP * square)
        else:
            enough = (best >= PUBLISHED_STOP) & (pivot > PUBLISHED_STOP)
        return (new & enough).float()


def _squared_distances_to_lines(vectors: Tensor, rows: Tensor) -> Tensor:
    """Return the squared distance of each vector to the line through zero and each of its rows, `[P, K]`.

    The row with the smallest distance has the largest merit. Codes of a network that was trained for few steps are
    nearly parallel: their merits are equal up to the rounding of float32, but their distances are not.

    Args:
        vectors: Vectors float32 `[P, C]`.
        rows: Rows float32 `[P, K, C]`.
    """
    difference = rows - vectors[:, None]
    share = (difference * rows).sum(2, keepdim=True) / rows.square().sum(2, keepdim=True).clamp(min=1e-30)
    return (difference - share * rows).square().sum(2)


class Memory(nn.Module):
    """Rows of good samples, such as codes of patches.

    Args:
        rows: Rows float32 `[K, C]`.
        neighbours: Nearest rows that rebuild a vector.
        atoms: Largest number of them in a sum.
        normalised: Rule of the pursuit, see `Pursuit`.

    Attributes:
        neighbours: Number of nearest rows, at most K.
    """

    rows: Tensor
    mean: Tensor
    half_squares: Tensor

    def __init__(self, rows: Tensor, *, neighbours: int, atoms: int, normalised: bool) -> None:
        super().__init__()
        self.neighbours = min(neighbours, len(rows))
        self.pursuit = Pursuit(min(atoms, self.neighbours), normalised=normalised)
        self.register_buffer("rows", rows)
        # Keys relative to the mean keep digits that would be lost if rows are near each other, but far from zero.
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("half_squares", (rows - self.mean).square().sum(1) / 2)

    def keys(self, vectors: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return numbers float32 `[P, K]` that are largest where |vector - row|² is smallest.

        Args:
            vectors: Vectors float32 `[P, C]`.
            allowed: Positive for the rows that may be chosen, float32 `[K]`; None for all rows.
        """
        keys = (vectors - self.mean) @ self.rows.T - self.half_squares
        return keys if allowed is None else torch.where(allowed > 0, keys, FORBIDDEN)

    def nearest(self, keys: Tensor) -> Tensor:
        """Return the rows with the largest keys, indices int64 `[P, neighbours]`, nearest first."""
        return keys.topk(self.neighbours, dim=1).indices

    @staticmethod
    def used(keys: Tensor, nearest: Tensor) -> Tensor:
        """Return 1 for the rows that are among the nearest of some vector, else 0, float32 `[K]`.

        Rows as near as the last neighbour count too. Forbidden rows do not.

        Args:
            keys: Keys float32 `[P, K]`.
            nearest: Result of `nearest` for them.
        """
        last = keys.gather(1, nearest[:, -1:])
        return ((keys >= last) & (keys > FORBIDDEN)).float().amax(0)

    def rebuilt(self, vectors: Tensor, nearest: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return vectors float32 `[P, C]` rebuilt from their nearest rows.

        If fewer rows are allowed than there are neighbours, rows of zeros take the places of the others. Such rows are
        never added to a sum.

        Args:
            vectors: Vectors float32 `[P, C]`.
            nearest: Indices int64 `[P, neighbours]`.
            allowed: Positive for the rows that may be chosen, at least one, float32 `[K]`; None for all rows.
        """
        neighbours = self.rows[nearest]
        if allowed is not None:
            neighbours = neighbours * (allowed[nearest] > 0)[..., None]
        rebuilt: Tensor = self.pursuit(vectors, neighbours)
        return rebuilt

    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors float32 `[P, C]` rebuilt from all rows."""
        return self.rebuilt(vectors, self.nearest(self.keys(vectors)))
