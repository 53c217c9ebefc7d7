"""The nearest bank row of each query: candidates by a matrix product, distances by differences in fp32.

The contract of `BankSearch`: queries `[T, C]` to the distance `[T]` and the index `[T]` of a row of the bank. Its
oracle is brute force in float64 (tests/train/test_search.py). Whatever the product's precision, the distance that
is returned is the true one to the row that is returned.

A product over some components of the bank alone can prove more than it computes. With a query q = Va + r and a row
b = Vc + s, columns of V orthonormal, q·b = a·c + r·s <= a·c + |r|·|s| (Cauchy and Schwarz): one product more than
there are components bounds every key from above. A query whose best measured candidate beats the bound of all that were
not measured has its nearest row, and the few others are searched in full.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan

UNIT_ROUNDOFF = 2.0**-24
"""Of float32: the largest relative error of one rounding."""
IN_FULL = "cmdiad::SearchInFull"
IN_FULL_AT_ONCE = 64
"""Queries in doubt that are searched at a time: their keys of a bank of 76 518 rows take 20 MB."""
IN_FULL_CANDIDATES = 4


@dataclass(frozen=True)
class SearchPlan:
    """How candidates are found.

    Attributes:
        candidates: rows per query that are measured exactly. Even an fp32 product orders rows wrongly where they
            lie much closer to the query than to the centre.
        width: principal components of the bank that the product is taken over; None takes all channels.
        chunk: bank rows at a time, in a loop, for devices without the memory for the whole product; None takes
            the bank as a whole.
        proven: with a width, search those queries in full for which nothing proves that the nearest row is among the
            candidates. As exact as the product over all channels, and in fp32 only.
    """

    candidates: int = 4
    width: int | None = None
    chunk: int | None = None
    proven: bool = False

    @property
    def exact(self) -> bool:
        """Whether the nearest row of every query is found."""
        return self.width is None or self.proven

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-ready values."""
        return asdict(self)


class BankSearch(nn.Module):
    """Nearest bank row of each query.

    Rows and queries are centred on the bank's mean row. That changes no distance, but it is what the
    product's rounding is relative to.

    With principal components V the key of a row is (V·q)·(V·b) - |b|²/2, with the whole norm: what is left out of
    the squared distance then is the product of the residuals, which is near zero on average, and not their norms. To
    prove something, the product of their norms is added: one more component, in which a key is an upper bound.

    Args:
        rows: float32 `[K, C]`.
        plan: how candidates are found.
        basis: for a plan with a width, the principal components if they are known already, `[C, width]`.
    """

    center: Tensor
    rows: Tensor
    half_squares: Tensor
    basis: Tensor | None
    projected: Tensor | None

    def __init__(self, rows: Tensor, plan: SearchPlan | None = None, basis: Tensor | None = None) -> None:
        super().__init__()
        plan = plan or SearchPlan()
        self.plan = plan
        self.candidates = min(plan.candidates, len(rows))
        self.scale = 1.0
        self.product = torch.float32
        center = rows.mean(0)
        self.register_buffer("center", center)
        self.register_buffer("rows", rows - center)
        self.register_buffer("half_squares", self.rows.square().sum(1) / 2)
        self.register_buffer("basis", None)
        self.register_buffer("projected", None)
        self.proven = False
        if plan.width is not None and plan.width < rows.shape[1]:
            self.basis = principal_components(self.rows, plan.width) if basis is None else basis
            self.projected = self.rows @ self.basis
            self.proven = plan.proven
        if self.proven and self.basis is not None and self.projected is not None:
            left_out = self.rows.double() - self.projected.double() @ self.basis.double().T
            self.projected = torch.cat([self.projected, left_out.norm(dim=1, keepdim=True).float()], 1)
            self.rounding = sum(self.basis.shape) * UNIT_ROUNDOFF
            self.longest = float((2 * self.half_squares).max().sqrt())

    def to_half(self) -> BankSearch:
        """The same search with an fp16 bank; rows are scaled by 1/√C so that products stay small.

        Nothing is proven in fp16.
        """
        search = BankSearch(self.rows + self.center, _unproven(self.plan))
        search.scale = self.rows.shape[1] ** -0.5
        search.product = torch.float16
        search.rows = (self.rows * search.scale).half()
        search.half_squares = search.rows.float().square().sum(1) / 2
        if search.basis is not None:
            search.basis = search.basis.half()
            search.projected = search.rows @ search.basis
        return search

    def to_half_rows(self) -> BankSearch:
        """The same search with an fp16 bank and products in fp32, for processors without fp16 products."""
        search = BankSearch(self.rows.half().float() + self.center, _unproven(self.plan))
        search.rows = self.rows.half()
        return search

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Distances float32 `[T]` and indices int64 `[T]` for normalised queries float32 `[T, C]`."""
        queries = (queries - self.center) * self.scale
        keys, nearest = self._nearest(queries.to(self.product))  # [T, k]
        squared, index = (nearest_one_by_one if self.proven else nearest_of)(queries, self.rows, nearest)
        if self.proven:
            doubt = keys[:, -1] - self._proving(queries, squared)
            index = search_in_full(queries, self.rows, self.half_squares, index, doubt)
            squared = (queries - self.rows[index]).square().sum(1)
        return squared.sqrt() / self.scale, index

    def rivals(self, queries: Tensor, distance: Tensor) -> Tensor:
        """How many rows int64 `[T]` may lie within a distance `[T]` of normalised queries `[T, C]`, by their bounds.

        With no fewer candidates than that, and the row at that distance among them, a query is in doubt.
        """
        queries = queries - self.center
        assert self.proven and self.projected is not None
        bounds = self._keys(self._bounding(queries), self.projected, self.half_squares)
        return (bounds > self._proving(queries, distance.square())[:, None]).sum(1)

    def distance_to(self, query: Tensor, index: Tensor) -> Tensor:
        """Distances float32 `[n]` of one normalised query `[C]` to the rows of `index` `[n]`."""
        difference = (query - self.center)[None] * self.scale - self.rows[index].float()
        return difference.square().sum(1).sqrt() / self.scale

    def _proving(self, queries: Tensor, squared: Tensor) -> Tensor:
        """The key of rows at squared distances `[T]` from centred queries `[T, C]`, less what rounding may hide.

        A bound below it proves that a row is farther away. The slack is that of as many roundings as the products have
        terms; they would have to fall all on one side.
        """
        squares = queries.square().sum(1)
        return (squares - squared) / 2 - self.rounding * (squares + squares.sqrt() * self.longest)

    def _bounding(self, queries: Tensor) -> Tensor:
        """Components of centred queries `[T, C]`, and at least the length of what those leave out, `[T, width + 1]`."""
        assert self.basis is not None
        inside = queries @ self.basis
        squares = queries.square().sum(1, keepdim=True)
        left_out = (squares - inside.square().sum(1, keepdim=True)).clamp(min=0)
        return torch.cat([inside, (left_out + self.rounding * squares).sqrt()], 1)

    def _nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and rows int64 `[T, k]` of the candidates of centred queries: those with the largest q·b - |b|²/2."""
        bank = self.rows
        if self.basis is not None and self.projected is not None:
            queries, bank = self._bounding(queries) if self.proven else queries @ self.basis, self.projected
        if self.plan.chunk is None or self.plan.chunk >= len(bank):
            found = self._keys(queries, bank, self.half_squares).topk(self.candidates, dim=1)
            return found.values, found.indices
        return self._nearest_by_chunks(queries, bank, self.plan.chunk)

    def _nearest_by_chunks(self, queries: Tensor, bank: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """The same in a loop: each round keeps the best of its chunk and of the rounds before.

        What is left when the bank is cut into chunks comes first. Exported, the chunks are slices of the one bank that
        distances are measured with, not a copy of it.
        """
        candidates, rounds = self.candidates, len(bank) // chunk
        cut = rounds * chunk

        def better(carry: list[Tensor], rows: Tensor, squares: Tensor, offset: Tensor | int, most: int) -> list[Tensor]:
            best, index = carry
            keys, found = self._keys(queries, rows, squares).topk(most, dim=1)
            keys, position = torch.cat([best, keys], 1).topk(candidates, dim=1)
            return [keys, torch.cat([index, found + offset], 1).gather(1, position)]

        def round_(carry: list[Tensor], part: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            rows, squares, offset = part
            return better(carry, rows, squares, offset, min(candidates, chunk)), [offset.clone()]

        start = torch.full((queries.shape[0], candidates), -torch.inf, device=queries.device)
        carry = [start, torch.zeros(queries.shape[0], candidates, dtype=torch.int64, device=queries.device)]
        if cut < len(bank):
            carry = better(carry, bank[cut:], self.half_squares[cut:], cut, min(candidates, len(bank) - cut))
        first = torch.arange(rounds, device=bank.device) * chunk
        parts = [bank[:cut].reshape(rounds, chunk, -1), self.half_squares[:cut].reshape(rounds, chunk), first]
        if torch.compiler.is_exporting():
            keys, index = scan(round_, carry, parts)[0]
            return keys, index
        for part in zip(*parts, strict=True):
            carry, _ = round_(carry, list(part))
        keys, index = carry
        return keys, index

    @staticmethod
    def _keys(queries: Tensor, rows: Tensor, half_squares: Tensor) -> Tensor:
        """float32 `[T, K]`, largest where |q - b|² is smallest; the product is of the queries' type."""
        return (queries @ rows.to(queries.dtype).T).float() - half_squares


def _unproven(plan: SearchPlan) -> SearchPlan:
    return SearchPlan(chunk=plan.chunk) if plan.proven else plan


def nearest_of(queries: Tensor, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances float32 `[T]` and the row int64 `[T]`, by differences, of each query's nearest candidate.

    Args:
        queries: float32 `[T, C]`.
        rows: `[K, C]`.
        candidates: int64 `[T, k]`, rows.
    """
    squared = (queries[:, None] - rows[candidates].float()).square().sum(2)
    best, position = squared.min(1)
    return best, candidates.gather(1, position[:, None])[:, 0]


def nearest_one_by_one(queries: Tensor, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `nearest_of` in a loop over candidates, which takes the memory of one of them."""

    def round_(carry: list[Tensor], part: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (squared, index), (rank,) = carry, part
        candidate = candidates.index_select(1, rank)[:, 0]
        found = (queries - rows[candidate].float()).square().sum(1)
        nearer = found < squared
        return [torch.where(nearer, found, squared), torch.where(nearer, candidate, index)], [rank.clone()]

    carry = [torch.full((queries.shape[0],), torch.inf, device=rows.device), torch.zeros_like(candidates[:, 0])]
    ranks = torch.arange(candidates.shape[1], device=rows.device)[:, None]
    if torch.compiler.is_exporting():
        squared, index = scan(round_, carry, [ranks])[0]
        return squared, index
    for rank in ranks:
        carry, _ = round_(carry, [rank])
    squared, index = carry
    return squared, index


def search_in_full(queries: Tensor, rows: Tensor, half_squares: Tensor, index: Tensor, doubt: Tensor) -> Tensor:
    """The nearest row int64 `[T]` of each query: `index` as it is, but over all channels where `doubt` is above 0.

    In a graph this is one node, which `cmdiad_export.in_full` writes out as a loop over the queries in doubt.

    Args:
        queries: float32 `[T, C]`, centred.
        rows: float32 `[K, C]`, centred.
        half_squares: float32 `[K]`, half of each row's squared length.
        index: int64 `[T]`.
        doubt: float32 `[T]`.
    """
    if torch.compiler.is_exporting():
        given = [queries, rows, half_squares, index, doubt]
        return torch.onnx.ops.symbolic(IN_FULL, given, dtype=torch.int64, shape=index.shape, version=1)
    index = index.clone()
    for part in (doubt > 0).nonzero()[:, 0].split(IN_FULL_AT_ONCE):
        keys = queries[part] @ rows.T - half_squares
        index[part] = nearest_of(queries[part], rows, keys.topk(min(IN_FULL_CANDIDATES, len(rows)), dim=1).indices)[1]
    return index


@torch.no_grad()
def principal_components(rows: Tensor, width: int) -> Tensor:
    """The `width` leading principal components of centred rows `[K, C]`, orthonormal columns float32 `[C, width]`."""
    double = rows.double()
    _, vectors = torch.linalg.eigh(double.T @ double)  # ascending eigenvalues
    return vectors[:, -width:].flip(1).float().contiguous()


QUERIES_AT_ONCE = 256


@torch.no_grad()
def brute_force(queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Distances float64 `[T]` and indices int64 `[T]` of the nearest rows, all in float64: the oracle of searches.

    Args:
        queries: float `[T, C]`.
        rows: float `[K, C]`.
    """
    rows = rows.double()
    center = rows.mean(0)
    centred = rows - center
    half_squares = centred.square().sum(1) / 2
    indices = [
        ((block.double() - center) @ centred.T - half_squares).argmax(1) for block in queries.split(QUERIES_AT_ONCE)
    ]
    index = torch.cat(indices)
    return distances_between(queries, rows, index), index


def distances_between(queries: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """Distances float64 `[T]` by differences, of each query `[T, C]` to the row `[K, C]` of its index `[T]`."""
    pairs = zip(queries.split(QUERIES_AT_ONCE), index.split(QUERIES_AT_ONCE), strict=True)
    return torch.cat([(block.double() - rows[chosen].double()).square().sum(1).sqrt() for block, chosen in pairs])
