"""Choose between an exact, a proven and a fast search.

The proven and the fast search take the product only over the leading principal components of the bank, and measure more
candidates exactly. The proven search is as exact as the product over all channels: a query is searched in full unless
the nearest row is proven to be among the candidates. Its settings are those that should cost least. Fast settings are
tried from the cheapest on, and the first within tolerance is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cmdiad_export.search.held_out import HeldOut
from cmdiad_export.search.measured import WIDTHS, Measured, SearchBench, multiply_adds
from cmdiad_export.search.modes import SEARCH_MODES, SearchMode
from cmdiad_export.search.nearest import CANDIDATES
from cmdiad_export.search.searchable import searchable
from cmdiad_runtime.bundle.search_record import SearchTolerance
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings
from cmdiad_train.runs.run import Run, load_held_out

EXACT = "exact: product over all channels"
PROVEN = "proven: product over the principal components of the bank, what that does not settle over all channels"
FAST = "fast: product over the principal components of the bank"


@dataclass(frozen=True)
class SearchChoice:
    """A search, and the measurements behind the choice.

    Attributes:
        asked: Kind of search that was requested.
        chosen: Search that is used.
        tolerance: Largest accepted change.
        good: Number of held-out good samples that were measured.
        tampered: Number of tampered copies.
        tried: Settings that were measured before and failed, cheapest first.
    """

    asked: SearchMode
    chosen: Measured
    tolerance: SearchTolerance
    good: int
    tampered: int
    tried: tuple[Measured, ...] = field(default=())

    @property
    def fast(self) -> bool:
        """Return True if the search may return another row than the nearest."""
        return not self.chosen.settings.exact

    @property
    def proven(self) -> bool:
        """Return True if the graph has data-dependent loops, which only ONNX Runtime on the CPU is known to run."""
        return self.chosen.settings.proven

    def to_json(self) -> dict[str, Any]:
        """Return the record in a bundle's manifest."""
        return {
            "asked": self.asked,
            "method": FAST if self.fast else PROVEN if self.proven else EXACT,
            "reference": "brute force in float64",
            "samples": {"good": self.good, "tampered": self.tampered},
            "tolerance": self.tolerance.to_json(),
            "chosen": self.chosen.to_json(),
            "tried": [measured.to_json() for measured in self.tried],
        }

    def __str__(self) -> str:
        chosen, change = self.chosen, self.chosen.change
        plan = f"{chosen.settings.candidates} candidates from {chosen.settings.width or 'all'} components"
        return (
            f"{'fast' if self.fast else 'proven' if self.proven else 'exact'} search, {plan}"
            + (f", {chosen.in_full:.2%} of queries in full" if self.proven else "")
            + f", against brute force in float64 on {self.good} good "
            f"and {self.tampered} tampered samples: recall {chosen.recall:.4%}, distance within "
            f"{chosen.distance_max_error:.2%}, score within {change.score_max_share:.3%} of the threshold, AUROC "
            f"{change.auroc_change:+.4f}, {change.label_flips} label flips"
        )


def choose_candidates(run: Run, mode: SearchMode, reporter: Reporter) -> SearchChoice:
    """Choose the search of a run's graph: exact, proven, or the cheapest fast settings within tolerance.

    A search that finds the nearest rows is measured on the run's golden samples, a fast search on all held-out samples
    (`load_held_out`). If no fast settings are within tolerance, or none are cheaper, the search is exact.

    Raises:
        EngineError: The detector has no memory banks.
        RunError: The run has no held-out samples for a fast search.
    """
    detector = searchable(run, f"--search {mode}")
    samples = load_held_out(run.path) if mode == "fast" else run.golden
    return choose_on(run, HeldOut.of(detector, samples), mode, reporter)


@torch.no_grad()
def choose_on(run: Run, held_out: HeldOut, mode: SearchMode, reporter: Reporter) -> SearchChoice:
    """Choose the search of a run's graph on these held-out samples; see `choose_candidates`."""
    return _choose(SearchBench(run, held_out), mode, reporter)


@torch.no_grad()
def choose_all(run: Run, held_out: HeldOut, reporter: Reporter) -> list[SearchChoice]:
    """Return the exact search, and the proven and the fast search if they exist."""
    bench = SearchBench(run, held_out)
    exact, proven, fast = (_choose(bench, mode, reporter) for mode in SEARCH_MODES)
    return [exact, *([proven] if proven.proven else []), *([fast] if fast.fast else [])]


def _choose(bench: SearchBench, mode: SearchMode, reporter: Reporter) -> SearchChoice:
    tried: list[Measured] = []
    passed = bench.proven() if mode == "proven" else None
    for settings in fast_settings(bench.detector.searches) if mode == "fast" else ():
        measured = bench.fast(settings)
        if measured.passed:
            passed = measured
            break
        tried.append(measured)
    if mode == "fast" and passed is None:
        reporter.say(f"no fast search is within tolerance ({len(tried)} tried): the search stays exact")
    if mode == "proven" and passed is None:
        reporter.say("no proof saves enough here: the search takes the product over all channels")
    good, tampered = bench.held_out.counts
    choice = SearchChoice(mode, passed or bench.exact, bench.tolerance, good, tampered, tuple(tried))
    reporter.say(str(choice))
    return choice


def fast_settings(searches: Sequence[BankSearch]) -> list[SearchSettings]:
    """Return the fast settings that take fewer multiply-adds than the exact search, cheapest first."""
    narrowest = min(search.rows.shape[1] for search in searches)
    every = [SearchSettings(candidates, width) for width in WIDTHS if width < narrowest for candidates in CANDIDATES]
    cost = {settings: multiply_adds(searches, settings) for settings in every}
    most = multiply_adds(searches, SearchSettings())
    return sorted((settings for settings in every if cost[settings] < most), key=lambda settings: cost[settings])
