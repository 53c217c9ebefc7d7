"""The memory of codes of good patches, and the sparse coding of a code with its nearest ones.

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
            one_hot = (merit.argmax(1, keepdim=True) == numbers).float()  # [P, K]
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


class CodeMemory(nn.Module):
    """Codes of good patches.

    Args:
        rows: Codes float32 `[K, C]`.
        neighbours: Nearest codes that rebuild a code.
        atoms: Largest number of them in a sum.
        normalised: Rule of the pursuit, see `Pursuit`.
    """

    rows: Tensor
    half_squares: Tensor

    def __init__(self, rows: Tensor, *, neighbours: int, atoms: int, normalised: bool) -> None:
        super().__init__()
        self._count = min(neighbours, len(rows))
        self.pursuit = Pursuit(min(atoms, self._count), normalised=normalised)
        self.register_buffer("rows", rows)
        self.register_buffer("half_squares", rows.square().sum(1) / 2)

    def nearest(self, codes: Tensor) -> Tensor:
        """Return the nearest rows of codes float32 `[P, C]`, indices int64 `[P, neighbours]`, nearest first."""
        keys = codes @ self.rows.T - self.half_squares  # largest where |code - row|² is smallest
        return keys.topk(self._count, dim=1).indices

    def forward(self, codes: Tensor) -> Tensor:
        """Return codes float32 `[P, C]` rebuilt from good ones."""
        rebuilt: Tensor = self.pursuit(codes, self.rows[self.nearest(codes)])
        return rebuilt
