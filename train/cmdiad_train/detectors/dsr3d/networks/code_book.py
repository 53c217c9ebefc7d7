"""A code book: each cell of a feature map is replaced by the nearest code (VQ-VAE, van den Oord et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DECAY = 0.99
_SMOOTHING = 1e-5
_LEAST_SHARE = 0.01
"""Share of the mean number of hits below which a code is unused."""


class CodeBook(nn.Module):
    """Codes, and the running sums from which training computes them.

    Args:
        count: Number of codes.
        width: Channels of a code.

    Attributes:
        codes: Codes float32 `[count, width]`.
        counts: Running number of cells of each code, float32 `[count]`.
        sums: Running sum of the features of these cells, float32 `[count, width]`.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(count, width))
        self.register_buffer("counts", torch.zeros(count))
        self.register_buffer("sums", torch.randn(count, width))

    def forward(self, features: Tensor) -> Tensor:
        """Return the nearest code of each cell, `[B, width, h, w]`, without a gradient."""
        batch, width, height, columns = features.shape
        chosen = self.codes[self.nearest(features)]
        return chosen.reshape(batch, height, columns, width).permute(0, 3, 1, 2)

    def nearest(self, features: Tensor) -> Tensor:
        """Return the index of the nearest code of each cell, int64 `[B·h·w]`, the first one of equally near ones.

        |z - k|² is smallest where z·k - |k|²/2 is largest.
        """
        return (rows_of(features) @ self.codes.T - self.codes.square().sum(1) / 2).argmax(1)

    @torch.no_grad()
    def update(self, features: Tensor, *, revive: bool) -> None:
        """Move the codes towards the running mean of the features of their cells.

        Args:
            features: Features `[B, width, h, w]` of one training step.
            revive: True to replace unused codes by features of this step. Published training does not: a code that
                is not hit in the first steps moves far away and is never hit again.
        """
        rows, index = rows_of(features), self.nearest(features)
        hits = torch.bincount(index, minlength=len(self.codes)).to(rows.dtype)
        self.counts.mul_(DECAY).add_(hits, alpha=1 - DECAY)
        total = self.counts.sum()
        self.counts.add_(_SMOOTHING).mul_(total / (total + len(self.codes) * _SMOOTHING))
        self.sums.mul_(DECAY).index_add_(0, index, rows, alpha=1 - DECAY)
        if revive:
            self._revive(rows)
        self.codes.copy_(self.sums / self.counts[:, None])

    def in_use(self) -> float:
        """Return the perplexity of the codes in recent training steps: as many equally frequent codes tell as much."""
        shares = self.counts.double() / self.counts.double().sum()
        return float(torch.special.entr(shares).sum().exp())

    def _revive(self, rows: Tensor) -> None:
        """Replace unused codes by features `[B·h·w, width]` of this step.

        They get the smallest count of a used code. A code that the next step does not hit is replaced again, so that
        unused codes follow the features while these change.
        """
        least = _LEAST_SHARE * self.counts.mean()
        unused = (self.counts < least).nonzero()[:, 0]
        places = torch.linspace(0, len(rows) - 1, len(unused), device=rows.device).long()
        self.counts[unused] = least
        self.sums[unused] = least * rows[places]


def rows_of(features: Tensor) -> Tensor:
    """Return the cells of features `[B, C, h, w]` as rows `[B·h·w, C]`, row by row of each sample."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def straight_through(features: Tensor, codes: Tensor) -> Tensor:
    """Return the codes, with the gradient of the features that they replace."""
    return features + (codes - features).detach()
