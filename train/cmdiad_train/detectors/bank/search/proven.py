"""The nearest bank row of each query by a product over few channels, if a bound proves that these suffice.

The bank is kept along its principal axes, the leading ones apart. With a query (a, r) and a row (c, s), leading
components and rest, the product is a·c + r·s <= a·c + |r|·|s| (Cauchy and Schwarz): one product more than there are
leading components bounds every key from above. A query whose best measured candidate beats the bound of all that were
not measured has its nearest row; the few others are searched over all channels.

Turning bank and queries changes distances only by one rounding of each number: rows from float64 to float32, queries as
in any other linear layer. No part of the bank is stored twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan

from cmdiad_train.detectors.bank.search.exact import (
    BankSearch,
    SearchSettings,
    best_rows,
    keys_of,
    principal_components,
)

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of one rounding to float32."""
IN_FULL = "cmdiad::SearchInFull"
IN_FULL_AT_ONCE = 64
"""Queries in doubt that are searched at a time: their keys of a bank of 76 518 rows take 20 MB."""
IN_FULL_CANDIDATES = 4
ROWS_AT_ONCE = 4096


class ProvenSearch(nn.Module):
    """Nearest bank row of each query, with the contract of `BankSearch`, in fp32.

    Args:
        rows: Rows float32 `[K, C]`.
        settings: How candidates are found; with a width below C.
        axes: All principal axes of the bank if they are known, orthonormal columns `[C, C]`, leading first.
    """

    center: Tensor
    leading_axes: Tensor
    rest_axes: Tensor
    leading: Tensor
    rest: Tensor
    half_squares: Tensor

    def __init__(self, rows: Tensor, settings: SearchSettings, axes: Tensor | None = None) -> None:
        super().__init__()
        channels = rows.shape[1]
        assert settings.width is not None and settings.width < channels
        self.settings = settings
        self.candidates = min(settings.candidates, len(rows))
        self.register_buffer("center", rows.mean(0))
        axes = principal_components(rows - self.center, channels) if axes is None else axes
        self.register_buffer("leading_axes", axes[:, : settings.width].contiguous())
        self.register_buffer("rest_axes", axes[:, settings.width :].contiguous())
        turned = [self._turn(part.double()) for part in rows.split(ROWS_AT_ONCE)]
        leading, rest = (torch.cat(parts).float() for parts in zip(*turned, strict=True))
        length = rest.double().norm(dim=1, keepdim=True).float() * (1 + 2 * UNIT_ROUNDOFF)
        # The length of the rest goes with the leading components, [K, width + 1], for one product of both.
        self.register_buffer("leading", torch.cat([leading, length], 1))
        self.register_buffer("rest", rest)
        squares = leading.double().square().sum(1) + rest.double().square().sum(1)
        self.register_buffer("half_squares", squares.float() / 2)
        self.rounding = (channels + settings.width) * UNIT_ROUNDOFF
        self.longest = float(squares.max().sqrt())

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances float32 `[T]` and indices int64 `[T]` for normalised queries float32 `[T, C]`."""
        leading, rest = self._turn(queries)
        keys, candidates = self._candidates(leading, rest)
        squared, index = nearest_one_by_one(leading, rest, self.leading, self.rest, candidates)
        doubt = keys[:, -1] - self._proving(leading, rest, squared)
        index = search_in_full(leading, rest, self.leading, self.rest, self.half_squares, index, doubt)
        return self._squared(leading, rest, index).sqrt(), index

    def rivals(self, queries: Tensor, distance: Tensor) -> Tensor:
        """Return how many rows int64 `[T]` may be within a distance `[T]` of normalised queries, by their bounds.

        With no fewer candidates than that, and the row at that distance among them, a query is in doubt.
        """
        leading, rest = self._turn(queries)
        bounds = keys_of(self._bounding(leading, rest), self.leading, self.half_squares)
        return (bounds > self._proving(leading, rest, distance.square())[:, None]).sum(1)

    def distance_to(self, query: Tensor, index: Tensor) -> Tensor:
        """Return distances float32 `[n]` of one normalised query `[C]` to the rows of `index` `[n]`."""
        return self._squared(*self._turn(query[None]), index).sqrt()

    def _turn(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows `[n, C]` along the bank's axes, from its mean row: `[n, width]` and `[n, C - width]`."""
        centred = rows - self.center
        return centred @ self.leading_axes.to(rows.dtype), centred @ self.rest_axes.to(rows.dtype)

    def _candidates(self, leading: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest bounds `[T, k]` of turned queries, and their rows int64 `[T, k]`."""
        bounding = self._bounding(leading, rest)
        return best_rows(bounding, self.leading, self.half_squares, self.candidates, self.settings.chunk)

    def _squared(self, leading: Tensor, rest: Tensor, index: Tensor) -> Tensor:
        """Return squared distances `[n]`, by differences, of turned queries to a row each (or of one to all)."""
        return squared_distance(leading, rest, self.leading[index], self.rest[index])

    def _bounding(self, leading: Tensor, rest: Tensor) -> Tensor:
        """Return components of turned queries, and at least the length of their rest, `[T, width + 1]`."""
        length = rest.square().sum(1, keepdim=True).sqrt() * (1 + self.rounding)
        return torch.cat([leading, length], 1)

    def _proving(self, leading: Tensor, rest: Tensor, squared: Tensor) -> Tensor:
        """Return the key of rows at squared distances `[T]` from turned queries, minus a bound of the rounding.

        A bound below it proves that a row is farther away. The slack is that of as many roundings as the products have
        terms; they would have to fall all on one side.
        """
        squares = leading.square().sum(1) + rest.square().sum(1)
        return (squares - squared) / 2 - self.rounding * (squares + squares.sqrt() * self.longest)


def search_by(rows: Tensor, settings: SearchSettings, axes: Tensor | None = None) -> BankSearch | ProvenSearch:
    """Return the search of a bank `[K, C]`, with the principal axes `[C, C]` of the bank if they are known."""
    if settings.proven and settings.width is not None and settings.width < rows.shape[1]:
        return ProvenSearch(rows, settings, axes)
    return BankSearch(rows, settings, None if axes is None else axes[:, : settings.width])


def squared_distance(leading: Tensor, rest: Tensor, row_leading: Tensor, row_rest: Tensor) -> Tensor:
    """Return squared distances `[...]` of turned queries to rows, whose last leading number is a length and ignored."""
    return (leading - row_leading[..., :-1]).square().sum(-1) + (rest - row_rest).square().sum(-1)


def nearest_one_by_one(
    leading: Tensor, rest: Tensor, row_leading: Tensor, row_rest: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Return squared distances float32 `[T]` and the row int64 `[T]` of each query's nearest candidate.

    A loop over candidates, which takes the memory of one of them.

    Args:
        leading: Leading components of turned queries, float32 `[T, width]`.
        rest: Other components of turned queries, `[T, C - width]`.
        row_leading: Leading components and length of the rest of each row, `[K, width + 1]`.
        row_rest: Other components of each row, `[K, C - width]`.
        candidates: Rows int64 `[T, k]` to measure.
    """

    def round_(carry: list[Tensor], part: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (squared, index), (rank,) = carry, part
        candidate = candidates.index_select(1, rank)[:, 0]
        measured = squared_distance(leading, rest, row_leading[candidate], row_rest[candidate])
        nearer = measured < squared
        return [torch.where(nearer, measured, squared), torch.where(nearer, candidate, index)], [rank.clone()]

    carry = [torch.full((leading.shape[0],), torch.inf, device=leading.device), torch.zeros_like(candidates[:, 0])]
    ranks = torch.arange(candidates.shape[1], device=leading.device)[:, None]
    if torch.compiler.is_exporting():
        squared, index = scan(round_, carry, [ranks])[0]
        return squared, index
    for rank in ranks:
        carry, _ = round_(carry, [rank])
    squared, index = carry
    return squared, index


def search_in_full(  # noqa: PLR0913 - a node of the graph with these inputs
    leading: Tensor,
    rest: Tensor,
    row_leading: Tensor,
    row_rest: Tensor,
    half_squares: Tensor,
    index: Tensor,
    doubt: Tensor,
) -> Tensor:
    """Return the nearest row int64 `[T]` of each query: `index`, but searched over all channels if `doubt` is above 0.

    In a graph this is one node, which the pass `WriteOutFullSearch` of export replaces by a loop over the queries in
    doubt.

    Args:
        leading: Leading components of turned queries, float32 `[T, width]`.
        rest: Other components of turned queries, `[T, C - width]`.
        row_leading: Leading components and length of the rest of each row, `[K, width + 1]`.
        row_rest: Other components of each row, `[K, C - width]`.
        half_squares: Half of the squared length of each row, float32 `[K]`.
        index: Nearest candidate of each query, int64 `[T]`.
        doubt: Numbers float32 `[T]`, above 0 if nothing proves that the candidate is the nearest row.
    """
    if torch.compiler.is_exporting():
        inputs = [leading, rest, row_leading, row_rest, half_squares, index, doubt]
        return torch.onnx.ops.symbolic(IN_FULL, inputs, dtype=torch.int64, shape=index.shape, version=1)
    index = index.clone()
    count = min(IN_FULL_CANDIDATES, len(row_rest))
    for part in (doubt > 0).nonzero()[:, 0].split(IN_FULL_AT_ONCE):
        keys = leading[part] @ row_leading[:, :-1].T + rest[part] @ row_rest.T - half_squares
        candidates = keys.topk(count, dim=1).indices
        index[part] = nearest_one_by_one(leading[part], rest[part], row_leading, row_rest, candidates)[1]
    return index
