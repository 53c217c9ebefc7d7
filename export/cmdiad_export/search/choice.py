"""Exact, proven or fast: how the search finds candidates, measured on held-out samples against brute force.

The proven and the fast search take the product over the leading principal components of the bank only, and measure
more candidates exactly. The proven one is as exact as the product over all channels: where nothing proves that the
nearest row is among the candidates, a query is searched in full; of its settings that is taken which should cost least.
Fast settings are tried from the cheapest on; the first within tolerance is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cmdiad_export.held_out import Change, HeldOut, Outcomes
from cmdiad_runtime.bundle.certificate import search_tolerance
from cmdiad_runtime.bundle.search_record import SearchTolerance
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.memory_bank import BankScorer
from cmdiad_train.detectors.bank.search.exact import (
    BankSearch,
    SearchPlan,
    brute_force,
    distances_between,
    principal_components,
)
from cmdiad_train.detectors.bank.search.proven import ProvenSearch, search_by
from cmdiad_train.runs.run_directory import Run, load_held_out

SearchMode = Literal["exact", "proven", "fast"]
Found = tuple[Tensor, Tensor]
"""Distances `[T]` and indices int64 `[T]`."""

WIDTHS = (8, 16, 32, 64, 128, 256)
CANDIDATES = (4, 8, 16, 32, 64, 128)
GATHERED = 64
"""What a number of a gathered row costs, in multiply-adds of a matrix product: measured in ONNX Runtime on a CPU."""
VALUES_AT_ONCE = 1 << 24
NEAR_ZERO = 1e-3
"""Of the mean distance: below it lie copies of bank rows, whose distance is rounding and no reference. Of an image of
the part alone most patches are background, such a copy each."""
WORTH = 0.8
"""Of the cost of the product over all channels: a proven search that does not save so much is not worth its loops."""
EXACT = "exact: product over all channels"
PROVEN = "proven: product over the principal components of the bank, what that does not settle over all channels"
FAST = "fast: product over the principal components of the bank"


@dataclass(frozen=True)
class Measured:
    """One way of finding candidates, held against brute force in float64 on held-out samples.

    Attributes:
        plan: of every bank.
        multiply_adds: per query, of all banks together; a gathered number counts GATHERED times.
        in_full: share of queries that a proven search searches in full.
        recall: share of queries whose returned row is a nearest one.
        distance_max_error: largest error of a returned distance, relative to the smallest distance there is.
        change: of scores, maps, AUROC and verdicts.
        passed: the change is within tolerance.
    """

    plan: SearchPlan
    multiply_adds: int
    recall: float
    distance_max_error: float
    change: Change
    passed: bool
    in_full: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The record in a bundle's manifest."""
        return {
            "plan": {"candidates": self.plan.candidates, "width": self.plan.width, "proven": self.plan.proven},
            "in_full": self.in_full,
            "multiply_adds": self.multiply_adds,
            "recall": self.recall,
            "distance_max_error": self.distance_max_error,
            **self.change.to_json(),
            "passed": self.passed,
        }


@dataclass(frozen=True)
class SearchChoice:
    """How candidates are found, and the measurements behind it.

    Attributes:
        asked: for which kind of search.
        chosen: what is taken.
        tolerance: that it keeps.
        good: held-out good samples that were measured.
        tampered: tampered copies.
        tried: what was measured before, cheapest first.
    """

    asked: SearchMode
    chosen: Measured
    tolerance: SearchTolerance
    good: int
    tampered: int
    tried: tuple[Measured, ...] = field(default=())

    @property
    def fast(self) -> bool:
        """Whether another row than the nearest may be found."""
        return not self.chosen.plan.exact

    @property
    def proven(self) -> bool:
        """Whether the graph holds what only ONNX Runtime on a processor is known to run: loops as long as needed."""
        return self.chosen.plan.proven

    def to_json(self) -> dict[str, Any]:
        """The record in a bundle's manifest."""
        return {
            "asked": self.asked,
            "method": FAST if self.fast else PROVEN if self.proven else EXACT,
            "reference": "brute force in float64",
            "samples": {"good": self.good, "tampered": self.tampered},
            "tolerance": self.tolerance.to_json(),
            "chosen": self.chosen.to_json(),
            "tried": [each.to_json() for each in self.tried],
        }

    def __str__(self) -> str:
        chosen, change = self.chosen, self.chosen.change
        plan = f"{chosen.plan.candidates} candidates from {chosen.plan.width or 'all'} components"
        return (
            f"{'fast' if self.fast else 'proven' if self.proven else 'exact'} search, {plan}"
            + (f", {chosen.in_full:.2%} of queries in full" if self.proven else "")
            + f", against brute force in float64 on {self.good} good "
            f"and {self.tampered} tampered samples: recall {chosen.recall:.4%}, distance within "
            f"{chosen.distance_max_error:.2%}, score within {change.score_max_share:.3%} of the threshold, AUROC "
            f"{change.auroc_change:+.4f}, {change.label_flips} label flips"
        )


def choose_candidates(run: Run, mode: SearchMode, say: Callable[[str], None]) -> SearchChoice:
    """How a run's graph finds candidates: exactly, with a proof, or by the cheapest fast setting within tolerance.

    A search that finds the nearest rows is measured on the run's golden samples, a fast one on all that it keeps
    (`load_held_out`). Where no fast setting is within tolerance, or no other is cheaper, the product is over all
    channels.

    Raises:
        RunError: the run keeps no held-out samples for a fast search.
    """
    samples = load_held_out(run.path) if mode == "fast" else run.golden
    return choose_on(run, HeldOut.of(run.detector, samples), mode, say)


@torch.no_grad()
def choose_on(run: Run, held_out: HeldOut, mode: SearchMode, say: Callable[[str], None]) -> SearchChoice:
    """The same for samples at hand."""
    return _choose(_Bench(run, held_out), mode, say)


@torch.no_grad()
def choose_all(run: Run, held_out: HeldOut, say: Callable[[str], None]) -> list[SearchChoice]:
    """The exact search, and the proven and the fast one where there is one."""
    bench = _Bench(run, held_out)
    exact, proven, fast = (_choose(bench, mode, say) for mode in get_args(SearchMode))
    return [exact, *([proven] if proven.proven else []), *([fast] if fast.fast else [])]


def _choose(bench: _Bench, mode: SearchMode, say: Callable[[str], None]) -> SearchChoice:
    tried: list[Measured] = []
    passed = bench.proven() if mode == "proven" else None
    for plan in settings(bench.detector.searches) if mode == "fast" else ():
        measured = bench.fast(plan)
        if measured.passed:
            passed = measured
            break
        tried.append(measured)
    if mode == "fast" and passed is None:
        say(f"no fast search is within tolerance ({len(tried)} tried): the search stays exact")
    if mode == "proven" and passed is None:
        say("no proof saves enough here: the search takes the product over all channels")
    tampered = bench.held_out.tampered
    bad = int(tampered.sum())
    choice = SearchChoice(mode, passed or bench.exact, bench.tolerance, len(tampered) - bad, bad, tuple(tried))
    say(str(choice))
    return choice


def settings(searches: Sequence[BankSearch]) -> list[SearchPlan]:
    """Fast plans that take fewer multiply-adds than the exact one, cheapest first."""
    narrowest = min(search.rows.shape[1] for search in searches)
    plans = [SearchPlan(candidates, width) for width in WIDTHS if width < narrowest for candidates in CANDIDATES]
    cost = {plan: multiply_adds(searches, plan) for plan in plans}
    most = multiply_adds(searches, SearchPlan())
    return sorted((plan for plan in plans if cost[plan] < most), key=lambda plan: cost[plan])


def multiply_adds(searches: Sequence[BankSearch], plan: SearchPlan, in_full: Sequence[float] | None = None) -> int:
    """Per query and all banks together: projection, product, and the exact distances of the candidates.

    Args:
        searches: of the banks.
        plan: of every bank.
        in_full: of each bank, the share of queries that is searched in full afterwards.
    """
    total = 0.0
    for search, share in zip(searches, in_full or [0.0] * len(searches), strict=True):
        rows, channels = search.rows.shape
        whole = rows * channels + GATHERED * min(SearchPlan().candidates, rows) * channels
        product = rows * channels
        if plan.width is not None:
            product = rows * plan.width + channels * (channels if plan.proven else plan.width)
        total += product + GATHERED * min(plan.candidates, rows) * channels + share * whole
    return round(total)


class _Bench:
    """Queries of held-out samples, their nearest rows by brute force, and what comes of them."""

    def __init__(self, run: Run, held_out: HeldOut) -> None:
        self.detector, self.calibration, self.held_out = run.detector, run.calibration, held_out
        self.tolerance = search_tolerance(published_blur=run.recipe.mode == "faithful")
        self.queries = queries_of(self.detector, held_out)
        self.counts = [[len(queries) for queries in each] for each in self.queries]
        joined = [torch.cat(each) for each in self.queries]
        self.banks = [_Bank(search, queries) for search, queries in zip(self.detector.searches, joined, strict=True)]
        self.reference = self._outcomes([(bank.nearest.float(), bank.index) for bank in self.banks])

    @cached_property
    def exact(self) -> Measured:
        """The product over all channels: measured once, for whichever kinds of search come to it."""
        plan = SearchPlan()
        return self._measured(plan, [bank.exact(plan) for bank in self.banks])

    def fast(self, plan: SearchPlan) -> Measured:
        """A product over principal components."""
        return self._measured(plan, [bank.projected(plan) for bank in self.banks])

    def proven(self) -> Measured | None:
        """The proven search that should cost least, or None where that is not much less than the exact one."""
        searches = self.detector.searches
        narrowest = min(min(search.rows.shape) for search in searches)
        cheapest, in_full = SearchPlan(), [0.0] * len(searches)
        least = WORTH * multiply_adds(searches, cheapest)
        for width in (width for width in WIDTHS if width < narrowest):
            rivals = [bank.rivals(width) for bank in self.banks]
            for candidates in (candidates for candidates in CANDIDATES if candidates < narrowest):
                plan = SearchPlan(candidates, width, proven=True)
                shares = [float((each >= candidates).float().mean()) for each in rivals]
                cost = multiply_adds(searches, plan, shares)
                if cost < least:
                    cheapest, in_full, least = plan, shares, cost
        if not cheapest.proven:
            return None
        return self._measured(cheapest, [bank.exact(cheapest) for bank in self.banks], in_full)

    def _measured(self, plan: SearchPlan, found: list[Found], in_full: list[float] | None = None) -> Measured:
        change = Change.between(self.reference, self._outcomes(found), self.held_out.tampered, self.tolerance)
        hits = sum(bank.hits(index) for bank, (_, index) in zip(self.banks, found, strict=True))
        counts = [sum(each) for each in self.counts]
        in_full = in_full or [0.0] * len(counts)
        return Measured(
            plan=plan,
            multiply_adds=multiply_adds(self.detector.searches, plan, in_full),
            recall=hits / sum(counts),
            distance_max_error=max(bank.error(distance) for bank, (distance, _) in zip(self.banks, found, strict=True)),
            change=change,
            passed=change.within(self.tolerance),
            in_full=sum(share * count for share, count in zip(in_full, counts, strict=True)) / sum(counts),
        )

    def _outcomes(self, found: list[Found]) -> Outcomes:
        """Scores and maps of all samples, from the nearest rows of all their queries."""
        answers = [
            zip(distance.split(counts), index.split(counts), strict=True)
            for (distance, index), counts in zip(found, self.counts, strict=True)
        ]
        scores, maps = [], []
        with _searching(self.detector, [_Given(s, a) for s, a in zip(self.detector.searches, answers, strict=True)]):
            for patches in self.held_out.patches:
                score, anomaly_map = self.detector.fuse(*self.detector.score_each(patches))
                scores.append(float(score))
                maps.append(anomaly_map.numpy())
        return Outcomes.of(scores, maps, self.calibration)


class _Bank:
    """All queries of one bank, their nearest rows by brute force, and faster ways to find them."""

    def __init__(self, search: BankSearch, queries: Tensor) -> None:
        self.search, self.queries = search, queries
        self.rows = search.rows + search.center
        self.nearest, self.index = brute_force(queries, self.rows)
        self.listed: dict[int, _Listed] = {}
        self.axes: Tensor | None = None

    def exact(self, plan: SearchPlan) -> Found:
        """What the graph's search returns by a plan that finds the nearest rows."""
        search = search_by(self.rows, plan, None if plan.width is None else self._axes())
        parts = [search(block) for block in self.queries.split(_at_once(len(self.rows)))]
        return torch.cat([distance for distance, _ in parts]), torch.cat([index for _, index in parts])

    def projected(self, plan: SearchPlan) -> Found:
        """The same by a plan with a width; plans of one width come with growing numbers of candidates."""
        assert plan.width is not None
        if plan.width not in self.listed:
            self.listed[plan.width] = _Listed(self.search, self.queries, self._axes()[:, : plan.width])
        return self.listed[plan.width].nearest(plan.candidates)

    def rivals(self, width: int) -> Tensor:
        """How many rows int64 `[T]` may be as near as the nearest, for all that components tell of them."""
        search = ProvenSearch(self.rows, SearchPlan(1, width, proven=True), self._axes())
        size = _at_once(len(self.rows))
        parts = zip(self.queries.split(size), self.nearest.float().split(size), strict=True)
        return torch.cat([search.rivals(queries, distance) for queries, distance in parts])

    def _axes(self) -> Tensor:
        """All principal axes of the bank, which take their time."""
        if self.axes is None:
            self.axes = principal_components(self.search.rows, self.rows.shape[1])
        return self.axes

    def hits(self, index: Tensor) -> int:
        """Queries whose row is as near as any."""
        missed = (index != self.index).nonzero()[:, 0]
        distance = distances_between(self.queries[missed], self.rows, index[missed]) if len(missed) else missed
        return len(index) - int((distance > self.nearest[missed] * (1 + 1e-9)).sum())

    def error(self, distance: Tensor) -> float:
        """The largest relative error of a distance."""
        floor = float(self.nearest.mean()) * NEAR_ZERO
        return float(((distance.double() - self.nearest).abs() / self.nearest.clamp(min=max(floor, 1e-30))).max())


class _Listed:
    """The candidates of each query in order, by one product, and the nearest among the first few of them."""

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

    def nearest(self, candidates: int) -> Found:
        """The nearest of the first candidates, no fewer than in the call before."""
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
    """Queries at a time where each takes so many values."""
    return max(1, VALUES_AT_ONCE // max(1, values))


def queries_of(detector: Detector, held_out: HeldOut) -> list[list[Tensor]]:
    """What each bank is asked for, float32 `[T, C]` of each sample."""
    asked = [_Asked() for _ in detector.searches]
    with _searching(detector, asked):
        for patches in held_out.patches:
            detector.score_each(patches)
    return [each.queries for each in asked]


class _Asked(nn.Module):
    """Stands in for a search, and keeps the queries."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[Tensor] = []

    def forward(self, queries: Tensor) -> Found:
        self.queries.append(queries)
        return torch.zeros(len(queries)), torch.zeros(len(queries), dtype=torch.int64)

    def distance_to(self, query: Tensor, index: Tensor) -> Tensor:
        return torch.zeros(len(index))


class _Given(nn.Module):
    """Stands in for a search whose results are known, sample by sample."""

    def __init__(self, search: BankSearch, answers: Iterator[Found]) -> None:
        super().__init__()
        self.search, self.answers = search, answers

    def forward(self, queries: Tensor) -> Found:
        return next(self.answers)

    def distance_to(self, query: Tensor, index: Tensor) -> Tensor:
        return self.search.distance_to(query, index)


@contextmanager
def _searching(detector: Detector, searches: Sequence[nn.Module]) -> Iterator[None]:
    """Let a detector's banks be searched by others for a while."""
    scorers = [scorer for scorer in detector.scorers if isinstance(scorer, BankScorer)]
    own = [scorer.search for scorer in scorers]
    try:
        for scorer, search in zip(scorers, searches, strict=True):
            scorer.search = search  # type: ignore[assignment]
        yield
    finally:
        for scorer, search in zip(scorers, own, strict=True):
            scorer.search = search
