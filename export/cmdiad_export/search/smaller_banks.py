"""Make smaller memory banks: those that a training with a smaller coreset would have kept.

The rows of a coreset are stored in the order of their selection, and greedy selection only adds rows. So the first rows
are the smaller coreset. A bank without coreset is sorted by one selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from cmdiad_export.search.held_out import HeldOut, Outputs, as_outputs
from cmdiad_export.search.searchable import searchable
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.threshold import calibrate
from cmdiad_train.detectors.bank.fitting.banks import choose_rows
from cmdiad_train.detectors.bank.fusion import fusion_weights
from cmdiad_train.detectors.bank.memory_bank import MemoryBank
from cmdiad_train.detectors.bank.run_files import load_banks
from cmdiad_train.detectors.family import worst_of_parts
from cmdiad_train.recipe import Recipe, bank_part
from cmdiad_train.runs.run import Run

SHARES = (0.1, 0.05, 0.02, 0.01)
"""Sizes of smaller banks, as fractions of the training rows."""


def with_smaller_banks(run: Run, held_out: HeldOut, shares: Sequence[float]) -> dict[float, Run]:
    """Return runs with smaller banks by fraction of the training rows, with their own thresholds and fusion weights.

    The result is empty for the published fusion of several banks: it is fitted on training samples, which a run does
    not contain. It is also empty if the thresholds rest on several sessions: a run does not contain all samples of a
    session.
    """
    if len(run.calibration.sessions) > 1:
        return {}
    if bank_part(run.recipe).fusion == "ocsvm" and len(searchable(run, "--plan").score_weights) > 1:
        return {}
    smaller = [share for share in shares if share < trained_share(run.recipe)]
    if not smaller:
        return {}
    trained = load_banks(run.path, run.recipe)
    ordered = [_in_order(bank, run.recipe, max(smaller)) for bank in trained]
    runs: dict[float, Run] = {}
    for share in smaller:
        counts = [_count(len(bank.rows), run.recipe, share) for bank in trained]
        banks = [_first(bank, count) for bank, count in zip(ordered, counts, strict=True)]
        runs[share] = _recalibrated(run, banks, share, held_out)
    return runs


def trained_share(recipe: Recipe) -> float:
    """Return the fraction of the training rows in the banks.

    If the default bound of the bank size applied, the rows that it kept count as all training rows.
    """
    share = bank_part(recipe).coreset
    return 1.0 if share is None else share


def _with_share(recipe: Recipe, share: float) -> Recipe:
    return replace(recipe, detector=replace(bank_part(recipe), coreset=share))


def _count(rows: int, recipe: Recipe, share: float) -> int:
    """Return the number of rows at a fraction of the training rows, given the rows at the recipe's own fraction."""
    return min(rows, max(3, int(share * round(rows / trained_share(recipe)))))


def _in_order(bank: MemoryBank, recipe: Recipe, most: float) -> MemoryBank:
    """Return the bank with its rows in the order of selection."""
    if trained_share(recipe) < 1:
        return bank
    chosen = choose_rows(bank.rows, _with_share(recipe, most))
    order = torch.from_numpy(chosen)
    return replace(bank, rows=bank.rows[order], weights=None if bank.weights is None else bank.weights[order])


@torch.no_grad()
def _first(bank: MemoryBank, count: int) -> MemoryBank:
    rows = bank.rows[:count].contiguous()
    first = MemoryBank.from_rows(rows, bank.mean, bank.std, neighbours=bank.neighbour_count)
    return first if bank.weights is None else replace(first, weights=bank.weights[:count])


@torch.no_grad()
def _recalibrated(run: Run, banks: list[MemoryBank], share: float, held_out: HeldOut) -> Run:
    """Return the run with these banks, and with thresholds and fusion weights from the held-out good samples."""
    trained, good = searchable(run, "--plan"), held_out.good
    detector = trained.against(banks)
    unfused = [detector.score_each(patches) for patches in good.patches]
    detector.score_weights = fusion_weights(torch.stack([s for s, _ in unfused]), run.recipe)
    maps = (s.each_over_sensor(m.numpy()) for s, (_, m) in zip(good.samples, unfused, strict=True))
    detector.map_weights = fusion_weights(torch.cat([torch.from_numpy(m).flatten(1).T for m in maps]), run.recipe)
    fused = [as_outputs(detector.fuse(*results)) for results in unfused]
    as_trained = [as_outputs(trained.fuse(*trained.score_each(patches))) for patches in good.patches]
    calibration = _calibration(run, good, fused, as_trained)
    return replace(run, recipe=_with_share(run.recipe, share), detector=detector, calibration=calibration)


def _calibration(run: Run, good: HeldOut, results: Sequence[Outputs], as_trained: Sequence[Outputs]) -> Calibration:
    """Return the thresholds of smaller banks.

    Args:
        run: Run as trained.
        good: Held-out good samples.
        results: Results of the smaller banks.
        as_trained: Results of the banks as trained.
    """
    verdict, parts = run.calibration.verdict, run.preprocessing.parts
    peaks = worst_of_parts(good.scores(results, "map"), parts)
    if run.preprocessing.view != "sensor" and good.samples[0].placement is None:
        # Runs of earlier versions do not say where a part lies. The ratio of largest values over the image of the
        # sensor to those over the view is assumed to stay the same. Medians do not depend on the number of samples.
        before = worst_of_parts(good.scores(as_trained, "map"), parts)
        peaks = [peak * float(np.median(run.calibration.held_out_peaks) / np.median(before)) for peak in peaks]
    deciding = peaks if verdict == "map" else worst_of_parts(good.scores(results, verdict), parts)
    return replace(calibrate(deciding, peaks, run.calibration.false_reject_rate), verdict=verdict)
