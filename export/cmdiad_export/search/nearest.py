"""Nearest bank rows of many queries: by brute force, by the graph's search, and by products over few components."""

from __future__ import annotations

import torch
from torch import Tensor

from cmdiad_export.search.stand_ins import Nearest
from cmdiad_train.detectors.bank.search.exact import (
    BankSearch,
    SearchSettings,
    brute_force,
    distances_between,
    principal_components,
)
from cmdiad_train.detectors.bank.search.proven import ProvenSearch, search_by

CANDIDATES = (4, 8, 16, 32, 64, 128)
VALUES_AT_ONCE = 1 << 24
NEAR_ZERO = 1e-3
"""Distances below this fraction of the mean distance are rounding errors of copies of bank rows, and no reference. In
an image of the part alone most patches are background, and each of them is such a copy."""


class BankQueries:
    """All queries of one bank, their nearest rows by brute force, and faster ways to find those rows."""

    def __init__(self, search: BankSearch, queries: Tensor) -> None:
        self.search, self.queries = search, queries
        self.rows = search.rows + search.center
        self.nearest, self.index = brute_force(queries, self.rows)
        self.listed: dict[int, _Listed] = {}
        self.axes: Tensor | None = None

    def exact(self, settings: SearchSettings) -> Nearest:
        """Return what the graph's search returns with settings that find the nearest rows."""
        search = search_by(self.rows, settings, None if settings.width is None else self._axes())
        parts = [search(block) for block in self.queries.split(_at_once(len(self.rows)))]
        return torch.cat([distance for distance, _ in parts]), torch.cat([index for _, index in parts])

    def projected(self, settings: SearchSettings) -> Nearest:
        """Return the nearest rows among candidates from a product over principal components.

        Calls with one width must come with growing numbers of candidates.
        """
        width = settings.width
        assert width is not None
        if width not in self.listed:
            self.listed[width] = _Listed(self.search, self.queries, self._axes()[:, :width])
        return self.listed[width].nearest(settings.candidates)

    def rivals(self, width: int) -> Tensor:
        """Return the number of rows, int64 `[T]`, that may be as near as the nearest, judging by their components."""
        search = ProvenSearch(self.rows, SearchSettings(1, width, proven=True), self._axes())
        size = _at_once(len(self.rows))
        parts = zip(self.queries.split(size), self.nearest.float().split(size), strict=True)
        return torch.cat([search.rivals(queries, distance) for queries, distance in parts])

    def _axes(self) -> Tensor:
        """Return all principal axes of the bank, computed once because they take long."""
        if self.axes is None:
            self.axes = principal_components(self.search.rows, self.rows.shape[1])
        return self.axes

    def hits(self, index: Tensor) -> int:
        """Return the number of queries whose row is as near as any."""
        missed = (index != self.index).nonzero()[:, 0]
        distance = distances_between(self.queries[missed], self.rows, index[missed]) if len(missed) else missed
        return len(index) - int((distance > self.nearest[missed] * (1 + 1e-9)).sum())

    def error(self, distance: Tensor) -> float:
        """Return the largest relative error of a distance."""
        floor = float(self.nearest.mean()) * NEAR_ZERO
        return float(((distance.double() - self.nearest).abs() / self.nearest.clamp(min=max(floor, 1e-30))).max())


class _Listed:
    """The candidates of each query, sorted by one product, and the nearest among the first few of them."""

    def __init__(self, search: BankSearch, queries: Tensor, basis: Tensor) -> None:
        self.search, self.queries = search, queries - search.center
        most = min(max(CANDIDATES), len(search.rows))
        projected = (search.rows @ basis).T
        self.order = torch.cat(
            [
                ((block @ basis) @ projected - search.half_squares).topk(most, dim=1).indices
                for block in self.queries.split(_at_once(len(search.rows)))
            ]
        )
        self.measured = 0
        self.squared = torch.full((len(queries),), torch.inf)
        self.index = torch.zeros(len(queries), dtype=torch.int64)

    def nearest(self, candidates: int) -> Nearest:
        """Return the nearest of the first candidates, at least as many as in the previous call."""
        size = _at_once((candidates - self.measured) * self.queries.shape[1])
        added = self.order[:, self.measured : candidates]
        self.measured = max(self.measured, candidates)
        if added.shape[1]:
            parts = zip(
                self.queries.split(size),
                added.split(size),
                self.squared.split(size),
                self.index.split(size),
                strict=True,
            )
            for queries, rows, squared, index in parts:
                best, position = (queries[:, None] - self.search.rows[rows]).square().sum(2).min(1)
                better = best < squared
                index[better] = rows.gather(1, position[:, None])[:, 0][better]
                squared[better] = best[better]
        return self.squared.sqrt(), self.index.clone()


def _at_once(values: int) -> int:
    """Return the number of queries to process at a time if each needs this number of values."""
    return max(1, VALUES_AT_ONCE // max(1, values))
