"""The memory banks of M3DM: each with a separate size by default, or as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.fitting.banks import bank_rows, bank_size, make_bank
from cmdiad_train.detectors.bank.memory_bank import NEIGHBOURS, MemoryBank
from cmdiad_train.detectors.bank.run_files import BANKS, load_banks, load_chosen, save_banks
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.m3dm.run_files import bank_names
from cmdiad_train.recipe import Recipe, m3dm_part

ReducedBank = tuple[MemoryBank, Tensor]
"""A bank, and the candidate row int64 `[K]` that each of its rows is; the published row of zeros is none."""


@torch.no_grad()
def fitted_banks(context: FitContext, patches: Sequence[Sequence[Patches]]) -> list[MemoryBank]:
    """Return the banks of a training, or those that an earlier attempt has written.

    Args:
        context: The training.
        patches: Patch features of the training samples that make up the banks, by bank and sample.
    """
    run, recipe = context.run, context.recipe
    if (run / BANKS).exists() and load_chosen(run):
        return load_banks(run, recipe)
    rows = [bank_rows(samples, recipe) for samples in patches]
    make = published_banks if m3dm_part(recipe).mode == "faithful" else separate_banks
    banks = dict(zip(bank_names(recipe), make(recipe, rows, context.device, context.reporter), strict=True))
    save_banks(run, banks)
    return [bank for bank, _ in banks.values()]


def separate_banks(
    recipe: Recipe, rows: Sequence[Tensor], device: torch.device, reporter: Reporter = SILENT
) -> list[ReducedBank]:
    """Return each bank with its own statistics and size; arguments as of `published_banks`."""
    pairs = zip(bank_names(recipe), rows, strict=True)
    return [make_bank(name, own, recipe, None, device, reporter) for name, own in pairs]


def published_banks(
    recipe: Recipe, rows: Sequence[Tensor], device: torch.device, reporter: Reporter = SILENT
) -> list[ReducedBank]:
    """Return the banks of the published program.

    All share the mean of the points and the deviation of the images. The size of all but the first is the share of
    the reduced first bank, not of the candidate rows. With fused features, a row of zeros follows the bank of points.

    Args:
        recipe: Recipe of the detector.
        rows: Candidate rows float32 `[n, C]` of each bank: points, image and, with fused features, those.
        device: Device of the coreset search.
        reporter: Receiver of progress.
    """
    statistics = float(rows[0].mean()), float(rows[1].std())
    reduced = bank_size(len(rows[0]), recipe)
    banks: list[ReducedBank] = []
    for name, own in zip(bank_names(recipe), rows, strict=True):
        sized = _with_rows(recipe, bank_size(reduced, recipe), len(own)) if banks else recipe
        banks.append(make_bank(name, own, sized, statistics, device, reporter))
    if m3dm_part(recipe).feature_fusion == "uff":
        banks[0] = (with_row_of_zeros(banks[0][0], recipe), banks[0][1])
    return banks


def _with_rows(recipe: Recipe, count: int, rows: int) -> Recipe:
    """Return the recipe whose banks keep a number of candidate rows."""
    share = min(1.0, (count + 0.5) / rows)
    return replace(recipe, detector=replace(m3dm_part(recipe), coreset=share))


def with_row_of_zeros(bank: MemoryBank, recipe: Recipe) -> MemoryBank:
    """Return the bank without rows that have a component of exactly 0, and with a row of zeros at the end."""
    rows = torch.cat([bank.rows[(bank.rows != 0).all(1)], torch.zeros(1, bank.rows.shape[1])])
    return MemoryBank.from_rows(rows, bank.mean, bank.std, neighbours=NEIGHBOURS[m3dm_part(recipe).image_score])
