"""Make smaller memory banks: those that a training with a smaller coreset would have kept.

The rows of a coreset are stored in the order of their selection, and greedy selection only adds rows. So the first rows
are the smaller coreset. A bank without coreset is sorted by one selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from cmdiad_export.search.held_out import HeldOut
from cmdiad_export.search.searchable import searchable
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
    if bank_part(run.recipe).fusion == "ocsvm" and len(searchable(run, "--plan").searches) > 1:
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
    return replace(bank, rows=bank.rows[torch.from_numpy(chosen)])


@torch.no_grad()
def _first(bank: MemoryBank, count: int) -> MemoryBank:
    rows = bank.rows[:count].contiguous()
    return MemoryBank.from_rows(rows, bank.mean, bank.std, reweight=bank.neighbours is not None)


@torch.no_grad()
def _recalibrated(run: Run, banks: list[MemoryBank], share: float, held_out: HeldOut) -> Run:
    """Return the run with these banks, and with thresholds and fusion weights from the held-out good samples."""
    trained = searchable(run, "--plan")
    detector = trained.against(banks)
    good = [patches for patches, bad in zip(held_out.patches, held_out.tampered, strict=True) if not bad]
    unfused = [detector.score_each(patches) for patches in good]
    detector.score_weights = fusion_weights(torch.stack([s for s, _ in unfused]), run.recipe)
    detector.map_weights = fusion_weights(torch.cat([m.flatten(1).T for _, m in unfused]), run.recipe)
    fused = [detector.fuse(*results) for results in unfused]
    rate = run.calibration.false_reject_rate
    # Training takes peaks over the image of the sensor, which needs its geometry. Here the ratio of such peaks to peaks
    # of the map is assumed to stay the same. Medians do not depend on the number of samples, as thresholds do.
    parts = run.preprocessing.parts
    peaks = [float(trained.fuse(*trained.score_each(patches))[1].max()) for patches in good]
    ratio = float(np.median(run.calibration.held_out_peaks) / np.median(worst_of_parts(peaks, parts)))
    scores = worst_of_parts([float(s) for s, _ in fused], parts)
    calibration = calibrate(scores, worst_of_parts([ratio * float(m.max()) for _, m in fused], parts), rate)
    return replace(run, recipe=_with_share(run.recipe, share), detector=detector, calibration=calibration)
