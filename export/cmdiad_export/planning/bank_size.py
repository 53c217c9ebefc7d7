"""The same detector with a smaller memory bank: as it would have been trained with a smaller coreset.

Rows of a coreset lie in the order of their selection, and greedy selection only adds: its beginning is the smaller
coreset. A whole bank is selected from once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cmdiad_export.held_out import HeldOut
from cmdiad_runtime.bundle.threshold import calibrate, calibrate_threshold
from cmdiad_train.detectors.bank.fusion import fusion_weights
from cmdiad_train.detectors.bank.memory_bank import MemoryBank
from cmdiad_train.fit.fit import choose_rows
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.run_directory import Run, load_banks

SHARES = (0.1, 0.05, 0.02, 0.01)
"""Of the training rows."""


def with_smaller_banks(run: Run, held_out: HeldOut, shares: Sequence[float]) -> dict[float, Run]:
    """A run with smaller banks by share of the training rows, thresholds and fusion weights found anew.

    The published fusion of several banks is fitted on training samples, which a run does not keep: none for it.
    """
    if run.recipe.fusion == "ocsvm" and len(run.detector.scorers) > 1:
        return {}
    wanted = [share for share in shares if share < trained_share(run.recipe)]
    if not wanted:
        return {}
    trained = load_banks(run.path, run.recipe)
    ordered = [_in_order(bank, run.recipe, max(wanted)) for bank in trained]
    found: dict[float, Run] = {}
    for share in wanted:
        counts = [_count(len(bank.rows), run.recipe, share) for bank in trained]
        banks = [_first(bank, count) for bank, count in zip(ordered, counts, strict=True)]
        found[share] = _recalibrated(run, banks, share, held_out)
    return found


def trained_share(recipe: Recipe) -> float:
    """Share of the training rows in the banks; where the default bounds them, shares are of the rows that it kept."""
    return 1.0 if recipe.coreset is None else recipe.coreset


def _count(rows: int, recipe: Recipe, share: float) -> int:
    """Rows of a bank at a share of the training rows, given the rows at the recipe's own share."""
    return min(rows, max(3, int(share * round(rows / trained_share(recipe)))))


def _in_order(bank: MemoryBank, recipe: Recipe, most: float) -> MemoryBank:
    """The bank with its rows in the order of selection."""
    if trained_share(recipe) < 1:
        return bank
    chosen = choose_rows(bank.rows, replace(recipe, coreset=most))
    return replace(bank, rows=bank.rows[torch.from_numpy(chosen)])


@torch.no_grad()
def _first(bank: MemoryBank, count: int) -> MemoryBank:
    rows = bank.rows[:count].contiguous()
    return MemoryBank.from_rows(rows, bank.mean, bank.std, reweight=bank.neighbours is not None)


@torch.no_grad()
def _recalibrated(run: Run, banks: list[MemoryBank], share: float, held_out: HeldOut) -> Run:
    """The run with these banks, and what follows from them on held-out good samples."""
    detector = run.detector.against(banks)
    good = [patches for patches, bad in zip(held_out.patches, held_out.tampered, strict=True) if not bad]
    outcomes = [detector.score_each(patches) for patches in good]
    detector.score_weights = fusion_weights(torch.stack([s for s, _ in outcomes]), run.recipe)
    detector.map_weights = fusion_weights(torch.cat([m.flatten(1).T for _, m in outcomes]), run.recipe)
    fused = [detector.fuse(*outcome) for outcome in outcomes]
    rate = run.calibration.false_reject_rate
    # Peaks over the sensor's image, as training takes them, need its geometry: their ratio to those of the map stays.
    own = [float(run.detector.fuse(*run.detector.score_each(patches))[1].max()) for patches in good]
    ratio = run.calibration.map_threshold / calibrate_threshold(own, rate).value
    calibration = calibrate([float(s) for s, _ in fused], [ratio * float(m.max()) for _, m in fused], rate)
    return replace(run, recipe=replace(run.recipe, coreset=share), detector=detector, calibration=calibration)
