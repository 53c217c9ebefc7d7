"""The inspection mask in a run directory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.record import read_record

MASK = "mask.png"
"""Copy of the mask that the user drew; white is ignored. Nothing reads the copy, the region is in the record."""


def load_kept(run: Path, recipe: Recipe) -> Tensor | None:
    """Return the inspected pixels of each view, bool `[views, size, size]`; None without an inspection mask.

    Raises:
        RunError: The record of the run is missing or damaged.
    """
    if recipe.mask is None:
        return None
    ignored = read_record(run).preprocessing.ignored
    assert ignored is not None  # the record has checked that
    return torch.from_numpy(~ignored.array)
