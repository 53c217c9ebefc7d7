"""The nearest bank row of each query: candidates by a matrix product, distances by differences in fp32.

The contract of `BankSearch`: queries `[T, C]` to the distance `[T]` and the index `[T]` of a row of the bank. The test
oracle is brute force in float64 (tests/train/detectors/test_search.py). Whatever the precision of the product, the
returned distance is the true distance to the returned row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
        candidates: Rows per query that are measured exactly. Even an fp32 product orders rows wrongly if they are
            much closer to the query than to the centre.
        width: Principal components of the bank in the product; None takes all channels.
        chunk: Bank rows at a time, in a loop, for devices without the memory for the whole product; None takes
            the whole bank.
        proven: True to search those queries in full for which nothing proves that the nearest row is among the
            candidates (`search.proven`); needs a width. As exact as the product over all channels, fp32 only.
    """

    candidates: int = 4
    width: int | None = None
    chunk: int | None = None
    proven: bool = False

    @property
    def exact(self) -> bool:
        """Return True if the nearest row of every query is found."""
        return self.width is None or self.proven

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values."""
        return asdict(self)


class BankSearch(nn.Module):
    """Nearest bank row of each query.

    Rows and queries are centred on the bank's mean row. That changes no distance, but it is what the
    product's rounding is relative to.

    With principal components V the key of a row is (V·q)·(V·b) - |b|²/2, with the whole norm: the squared distance
    then lacks only the product of the residuals, which is near zero on average, and not their norms.

    Args:
        rows: Rows float32 `[K, C]`.
        settings: How candidates are found.
        basis: Principal components `[C, width]` for settings with a width, if they are known already.
    """

    center: Tensor
    rows: Tensor
    half_squares: Tensor
    basis: Tensor | None
    projected: Tensor | None

    def __init__(self, rows: Tensor, settings: SearchSettings | None = None, basis: Tensor | None = None) -> None:
        super().__init__()
        settings = settings or SearchSettings()
        self.settings = settings
        self.candidates = min(settings.candidates, len(rows))
        self.scale = 1.0
        self.product = torch.float32
        center = rows.mean(0)
        self.register_buffer("center", center)
        self.register_buffer("rows", rows - center)
        self.register_buffer("half_squares", self.rows.square().sum(1) / 2)
        self.register_buffer("basis", None)
        self.register_buffer("projected", None)
        if settings.width is not None and settings.width < rows.shape[1]:
            self.basis = principal_components(self.rows, settings.width) if basis is None else basis
            self.projected = self.rows @ self.basis

    def to_half(self) -> BankSearch:
        """Return the same search with an fp16 bank. Rows are scaled by 1/√C so that products stay small."""
        search = BankSearch(self.rows + self.center, self.settings)
        search.scale = self.rows.shape[1] ** -0.5
        search.product = torch.float16
        search.rows = (self.rows * search.scale).half()
        search.half_squares = search.rows.float().square().sum(1) / 2
        if search.basis is not None:
            search.basis = search.basis.half()
            search.projected = search.rows @ search.basis
        return search

    def to_half_rows(self) -> BankSearch:
        """Return the same search with an fp16 bank and products in fp32, for processors without fp16 products."""
        search = BankSearch(self.rows.half().float() + self.center, self.settings)
        search.rows = self.rows.half()
        return search

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances float32 `[T]` and indices int64 `[T]` for normalised queries float32 `[T, C]`."""
        queries = (queries - self.center) * self.scale
        squared, index = nearest_of(queries, self.rows, self._candidates(queries.to(self.product)))
        return squared.sqrt() / self.scale, index

    def distance_to(self, query: Tensor, index: Tensor) -> Tensor:
        """Return distances float32 `[n]` of one normalised query `[C]` to the rows of `index` `[n]`."""
        difference = (query - self.center)[None] * self.scale - self.rows[index].float()
        return difference.square().sum(1).sqrt() / self.scale

    def _candidates(self, queries: Tensor) -> Tensor:
        """Return the rows int64 `[T, k]` with the largest q·b - |b|²/2, for centred queries of the product's type."""
        if self.basis is None or self.projected is None:
            return best_rows(queries, self.rows, self.half_squares, self.candidates, self.settings.chunk)[1]
        return best_rows(queries @ self.basis, self.projected, self.half_squares, self.candidates, self.settings.chunk)[
            1
        ]


def keys_of(queries: Tensor, rows: Tensor, half_squares: Tensor) -> Tensor:
    """Return keys float32 `[T, K]`, largest where |q - b|² is smallest; the product has the type of the queries."""
    return (queries @ rows.to(queries.dtype).T).float() - half_squares


def best_rows(
    queries: Tensor, rows: Tensor, half_squares: Tensor, count: int, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Return the largest keys float32 `[T, count]` of queries, and their rows int64 `[T, count]`, best first.

    With a chunk this is a loop: each round keeps the best of its chunk and of the rounds before. The rows that
    remain when the bank is cut into chunks come first. In an exported graph the chunks are slices of one bank.

    Args:
        queries: Queries `[T, C]`.
        rows: Rows `[K, C]`.
        half_squares: Half of the squared length of each row, float32 `[K]`.
        count: Number of rows per query, at most K.
        chunk: Rows at a time, see `SearchSettings`.
    """
    if chunk is None or chunk >= len(rows):
        best = keys_of(queries, rows, half_squares).topk(count, dim=1)
        return best.values, best.indices
    rounds = len(rows) // chunk
    cut = rounds * chunk

    def better(carry: list[Tensor], rows: Tensor, squares: Tensor, offset: Tensor | int, most: int) -> list[Tensor]:
        best, index = carry
        keys, rows_of_keys = keys_of(queries, rows, squares).topk(most, dim=1)
        keys, position = torch.cat([best, keys], 1).topk(count, dim=1)
        return [keys, torch.cat([index, rows_of_keys + offset], 1).gather(1, position)]

    def round_(carry: list[Tensor], part: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        rows, squares, offset = part
        return better(carry, rows, squares, offset, min(count, chunk)), [offset.clone()]

    start = torch.full((queries.shape[0], count), -torch.inf, device=queries.device)
    carry = [start, torch.zeros(queries.shape[0], count, dtype=torch.int64, device=queries.device)]
    if cut < len(rows):
        carry = better(carry, rows[cut:], half_squares[cut:], cut, min(count, len(rows) - cut))
    first = torch.arange(rounds, device=rows.device) * chunk
    parts = [rows[:cut].reshape(rounds, chunk, -1), half_squares[:cut].reshape(rounds, chunk), first]
    if torch.compiler.is_exporting():
        keys, index = scan(round_, carry, parts)[0]
        return keys, index
    for part in zip(*parts, strict=True):
        carry, _ = round_(carry, list(part))
    keys, index = carry
    return keys, index


def nearest_of(queries: Tensor, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared distances float32 `[T]`, by differences, and the row int64 `[T]` of the nearest candidates.

    Args:
        queries: Queries float32 `[T, C]`.
        rows: Rows `[K, C]`.
        candidates: Rows int64 `[T, k]` to measure.
    """
    squared = (queries[:, None] - rows[candidates].float()).square().sum(2)
    best, position = squared.min(1)
    return best, candidates.gather(1, position[:, None])[:, 0]


@torch.no_grad()
def principal_components(rows: Tensor, width: int) -> Tensor:
    """Return the `width` leading principal components of centred rows `[K, C]`, orthonormal float32 `[C, width]`."""
    double = rows.double()
    _, vectors = torch.linalg.eigh(double.T @ double)  # ascending eigenvalues
    return vectors[:, -width:].flip(1).float().contiguous()


QUERIES_AT_ONCE = 256


@torch.no_grad()
def brute_force(queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances float64 `[T]` and indices int64 `[T]` of the nearest rows, all in float64: the test oracle.

    Args:
        queries: Queries `[T, C]`.
        rows: Rows `[K, C]`.
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
    """Return distances float64 `[T]`, by differences, of each query `[T, C]` to the row `[K, C]` of its index `[T]`."""
    pairs = zip(queries.split(QUERIES_AT_ONCE), index.split(QUERIES_AT_ONCE), strict=True)
    return torch.cat([(block.double() - rows[chosen].double()).square().sum(1).sqrt() for block, chosen in pairs])
