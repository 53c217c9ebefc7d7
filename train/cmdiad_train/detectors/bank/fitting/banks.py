"""Memory banks from the patch features of training samples (method §10, §11)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.fitting.coreset import greedy_coreset, project
from cmdiad_train.detectors.bank.memory_bank import NEIGHBOURS, MemoryBank
from cmdiad_train.detectors.cell_maps import marked_cells
from cmdiad_train.recipe import MOST_ROWS, Recipe, bank_part


def bank_rows(patches: Sequence[Patches], recipe: Recipe) -> Tensor:
    """Return the candidate rows `[n, C]` of a bank: every cell as published, or every distinct row."""
    if bank_part(recipe).mode == "faithful":
        return torch.cat([rows[cells] for rows, cells in patches])
    return torch.cat([rows[torch.unique(cells)] for rows, cells in patches])


def inspected_patches(
    patches: Sequence[Sequence[Patches]], grids: Sequence[int], kept: Tensor | None
) -> Sequence[Sequence[Patches]]:
    """Return the patch features without cells that an inspection mask ignores, by bank and sample.

    Rows of an ignored region must not enter a bank: they would make a defect elsewhere look normal.

    Args:
        patches: Patch features by bank and sample.
        grids: Side of the grid of each bank.
        kept: Inspected pixels of each view, bool `[views, size, size]`; None without a mask.

    Raises:
        RunError: No patch, or every patch of a bank is ignored.
    """
    if kept is None:
        return patches
    inspected = [marked_cells(kept[min(i, len(kept) - 1)], grid) for i, grid in enumerate(grids)]
    if all(bool(cells.all()) for cells in inspected):
        raise _useless_mask("a region in which no patch lies completely", "at least one whole patch in the region")
    if not all(bool(cells.any()) for cells in inspected):
        raise _useless_mask("a region that leaves no patch to inspect", "a part outside the region")
    pairs = zip(patches, inspected, strict=True)
    return [[(rows, cells[chosen]) for rows, cells in samples] for samples, chosen in pairs]


def _useless_mask(found: str, expected: str) -> RunError:
    return RunError("--mask", found=found, expected=expected, action="Draw the region again, or leave out --mask")


def make_bank(
    name: str,
    rows: Tensor,
    recipe: Recipe,
    statistics: tuple[float, float] | None,
    device: torch.device,
    reporter: Reporter,
) -> tuple[MemoryBank, Tensor]:
    """Return the bank of candidate rows, and the candidate row int64 `[K]` that each row of the bank is.

    Args:
        name: Name of the bank in progress reports.
        rows: Candidate rows float32 `[n, C]`.
        recipe: Recipe of the detector.
        statistics: Mean and standard deviation that normalise the rows; None takes those of the rows.
        device: Device of the coreset search.
        reporter: Receiver of progress.
    """
    mean, std = statistics or (float(rows.mean()), float(rows.std()))
    normalised = (rows - mean) / std
    chosen = torch.from_numpy(choose_rows(normalised, recipe, device=device, reporter=reporter, name=name))
    kept = normalised[chosen].contiguous()
    return MemoryBank.from_rows(kept, mean, std, neighbours=NEIGHBOURS[bank_part(recipe).image_score]), chosen


def bank_size(rows: int, recipe: Recipe) -> int:
    """Return the number of rows that a bank keeps of a number of candidate rows."""
    share = bank_part(recipe).coreset
    if share is None:
        return min(rows, MOST_ROWS)
    return rows if share == 1 else max(3, int(share * rows))


def choose_rows(
    rows: Tensor,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    reporter: Reporter = SILENT,
    name: str = "memory",
) -> npt.NDArray[np.int64]:
    """Return the indices int64 of the rows that a bank keeps, in order of selection.

    Args:
        rows: Normalised candidate rows float32 `[n, C]`.
        recipe: Recipe of the detector.
        device: Device of the coreset search; None takes the processor.
        reporter: Receiver of progress.
        name: Name of the bank in progress reports.
    """
    part = bank_part(recipe)
    count = bank_size(len(rows), recipe)
    if count == len(rows):
        return np.arange(len(rows))
    projected = project(rows, eps=part.coreset_eps, seed=recipe.seed).to(device or "cpu")
    return greedy_coreset(
        projected,
        count,
        half=part.mode == "faithful",
        progress=lambda done, total: reporter.step(f"choose {name} bank", done, total),
    )
