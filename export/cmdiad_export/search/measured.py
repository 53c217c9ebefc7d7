"""Measure searches on held-out samples against brute force in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from cmdiad_export.search.held_out import HeldOut, RelativeResults, ResultChange, as_outputs
from cmdiad_export.search.nearest import CANDIDATES, BankQueries
from cmdiad_export.search.searchable import searchable
from cmdiad_export.search.stand_ins import KnownSearch, Nearest, queries_of, searching
from cmdiad_runtime.bundle.certificate import search_tolerance
from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings
from cmdiad_train.runs.run import Run

WIDTHS = (8, 16, 32, 64, 128, 256)
GATHERED = 64
"""Cost of one number of a gathered row, in multiply-adds of a matrix product: measured in ONNX Runtime on a CPU."""
WORTH = 0.8
"""A proven search is used only if its estimated cost is below this fraction of the exact search."""


@dataclass(frozen=True)
class Measured:
    """One search, compared with brute force in float64 on held-out samples.

    Attributes:
        settings: Settings of every bank.
        multiply_adds: Multiply-adds per query of all banks together; a gathered number counts GATHERED times.
        recall: Fraction of queries whose returned row is a nearest one.
        distance_max_error: Largest error of a returned distance, relative to the smallest distance there is.
        change: Change of scores, maps, AUROC and verdicts.
        passed: True if the change is within tolerance.
        in_full: Fraction of queries that a proven search searches in full.
    """

    settings: SearchSettings
    multiply_adds: int
    recall: float
    distance_max_error: float
    change: ResultChange
    passed: bool
    in_full: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the record in a bundle's manifest."""
        settings = self.settings
        return {
            "plan": {"candidates": settings.candidates, "width": settings.width, "proven": settings.proven},
            "in_full": self.in_full,
            "multiply_adds": self.multiply_adds,
            "recall": self.recall,
            "distance_max_error": self.distance_max_error,
            **self.change.to_json(),
            "passed": self.passed,
        }


def multiply_adds(
    searches: Sequence[BankSearch], settings: SearchSettings, in_full: Sequence[float] | None = None
) -> int:
    """Return the multiply-adds per query of all banks: projection, product, and exact distances of the candidates.

    Args:
        searches: Search of each bank.
        settings: Settings of every bank.
        in_full: For each bank, the fraction of queries that is searched in full afterwards.
    """
    total = 0.0
    for search, share in zip(searches, in_full or [0.0] * len(searches), strict=True):
        rows, channels = search.rows.shape
        whole = rows * channels + GATHERED * min(SearchSettings().candidates, rows) * channels
        product = rows * channels
        if settings.width is not None:
            product = rows * settings.width + channels * (channels if settings.proven else settings.width)
        total += product + GATHERED * min(settings.candidates, rows) * channels + share * whole
    return round(total)


class SearchBench:
    """The queries of held-out samples and their nearest rows by brute force, against which searches are measured."""

    def __init__(self, run: Run, held_out: HeldOut) -> None:
        self.detector, self.calibration, self.held_out = searchable(run, "--search"), run.calibration, held_out
        self.tolerance = search_tolerance(published_blur=run.detector.published_blur, verdict=run.calibration.verdict)
        queries = queries_of(self.detector, held_out)
        self.counts = [[len(sample) for sample in bank] for bank in queries]
        joined = [torch.cat(bank) for bank in queries]
        searches = self.detector.searches
        self.banks = [BankQueries(search, queries) for search, queries in zip(searches, joined, strict=True)]
        self.reference = self._results([(bank.nearest.float(), bank.index) for bank in self.banks])

    @cached_property
    def exact(self) -> Measured:
        """Return the product over all channels, measured once for all kinds of search that fall back to it."""
        settings = SearchSettings()
        return self._measured(settings, [bank.exact(settings) for bank in self.banks])

    def fast(self, settings: SearchSettings) -> Measured:
        """Measure a product over principal components."""
        return self._measured(settings, [bank.projected(settings) for bank in self.banks])

    def proven(self) -> Measured | None:
        """Measure the proven search that should cost least; None if it does not cost much less than the exact one."""
        searches = self.detector.searches
        narrowest = min(min(search.rows.shape) for search in searches)
        cheapest, in_full = SearchSettings(), [0.0] * len(searches)
        least = WORTH * multiply_adds(searches, cheapest)
        for width in (width for width in WIDTHS if width < narrowest):
            rivals = [bank.rivals(width) for bank in self.banks]
            for candidates in (candidates for candidates in CANDIDATES if candidates < narrowest):
                settings = SearchSettings(candidates, width, proven=True)
                shares = [float((count >= candidates).float().mean()) for count in rivals]
                cost = multiply_adds(searches, settings, shares)
                if cost < least:
                    cheapest, in_full, least = settings, shares, cost
        if not cheapest.proven:
            return None
        return self._measured(cheapest, [bank.exact(cheapest) for bank in self.banks], in_full)

    def _measured(
        self, settings: SearchSettings, returned: list[Nearest], in_full: list[float] | None = None
    ) -> Measured:
        change = ResultChange.between(self.reference, self._results(returned), self.held_out.tampered, self.tolerance)
        hits = sum(bank.hits(index) for bank, (_, index) in zip(self.banks, returned, strict=True))
        counts = [sum(bank) for bank in self.counts]
        in_full = in_full or [0.0] * len(counts)
        errors = (bank.error(distance) for bank, (distance, _) in zip(self.banks, returned, strict=True))
        return Measured(
            settings=settings,
            multiply_adds=multiply_adds(self.detector.searches, settings, in_full),
            recall=hits / sum(counts),
            distance_max_error=max(errors),
            change=change,
            passed=change.within(self.tolerance),
            in_full=sum(share * count for share, count in zip(in_full, counts, strict=True)) / sum(counts),
        )

    def _results(self, returned: list[Nearest]) -> RelativeResults:
        """Return scores and maps of all samples, computed from the nearest rows of all their queries."""
        answers = [
            zip(distance.split(counts), index.split(counts), strict=True)
            for (distance, index), counts in zip(returned, self.counts, strict=True)
        ]
        results = []
        stand_ins = [KnownSearch(s, a) for s, a in zip(self.detector.searches, answers, strict=True)]
        with searching(self.detector, stand_ins):
            for patches in self.held_out.patches:
                results.append(as_outputs(self.detector.fuse(*self.detector.score_each(patches))))
        return self.held_out.relative(results, self.calibration)
