"""Stand-ins for the searches of a detector: they record queries, or return known results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cmdiad_export.search.held_out import HeldOut
from cmdiad_train.detectors.bank.memory_bank import BankScorer
from cmdiad_train.detectors.bank.search.exact import BankSearch
from cmdiad_train.detectors.family import SearchableDetector

Nearest = tuple[Tensor, Tensor]
"""Distances float32 `[T]` to bank rows and their indices int64 `[T]`."""


def queries_of(detector: SearchableDetector, held_out: HeldOut) -> list[list[Tensor]]:
    """Return the queries of each bank, float32 `[T, C]` for each sample."""
    recorders = [_Recorder() for _ in detector.searches]
    with searching(detector, recorders):
        for patches in held_out.patches:
            detector.score_each(patches)
    return [recorder.queries for recorder in recorders]


class _Recorder(nn.Module):
    """A stand-in that keeps the queries."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[Tensor] = []

    def forward(self, queries: Tensor) -> Nearest:
        self.queries.append(queries)
        return torch.zeros(len(queries)), torch.zeros(len(queries), dtype=torch.int64)

    def distance_to(self, query: Tensor, index: Tensor) -> Tensor:
        return torch.zeros(len(index))


class KnownSearch(nn.Module):
    """A stand-in whose results are known, sample by sample.

    Args:
        search: Search that it stands in for.
        answers: Result for each sample, in order.
    """

    def __init__(self, search: BankSearch, answers: Iterator[Nearest]) -> None:
        super().__init__()
        self.search, self.answers = search, answers

    def forward(self, queries: Tensor) -> Nearest:
        """Return the next known result."""
        return next(self.answers)

    def distance_to(self, query: Tensor, index: Tensor) -> Tensor:
        """Return the distances of a query to bank rows, computed by the search that this one stands in for."""
        return self.search.distance_to(query, index)


@contextmanager
def searching(detector: SearchableDetector, searches: Sequence[nn.Module]) -> Iterator[None]:
    """Replace the searches of a detector's banks inside a `with` block."""
    assert isinstance(detector, nn.Module)
    scorers = [scorer for scorer in detector.modules() if isinstance(scorer, BankScorer)]
    own = [scorer.search for scorer in scorers]
    try:
        for scorer, search in zip(scorers, searches, strict=True):
            scorer.search = search  # type: ignore[assignment]
        yield
    finally:
        for scorer, search in zip(scorers, own, strict=True):
            scorer.search = search
