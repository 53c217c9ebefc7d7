"""Choose how much memory a search may take: one whole product, or a loop over chunks of the bank for small devices.

The product of all queries with all bank rows is by far the largest array of a detector. A graph without a loop can be
captured as one CUDA graph, so the loop is only for devices without memory for the whole product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cmdiad_runtime.errors import EngineError
from cmdiad_train.detectors.bank.search.exact import SearchSettings
from cmdiad_train.detectors.bank.search.proven import IN_FULL_AT_ONCE
from cmdiad_train.detectors.family import SearchableDetector

DEFAULT_MEGABYTES = 512
"""Budget if none is stated: a graphics card has this memory to spare, a Jetson has not."""
SMALLEST_CHUNK = 256
"""Fewer rows at a time would not keep a GPU busy."""
KEY_BYTES = 4
"""Bytes of a key inside the loop, in any precision of the bank."""
FIXED_BYTES = 10_000_000
"""Bytes in addition to keys and candidates, at any size: measured with TensorRT-RTX 1.7.1."""


@dataclass(frozen=True)
class BankSize:
    """The sizes that determine a search's memory.

    Attributes:
        queries: Largest number of queries of one sample.
        rows: Number of bank rows.
        channels: Number of channels of queries and rows.
        item: Bytes of one number of the bank.
    """

    queries: int
    rows: int
    channels: int
    item: int

    def scratch(self, settings: SearchSettings) -> int:
        """Return the bytes that a search needs in addition to the bank; docs/precision.md has measurements."""
        at_once = 1 if settings.proven else settings.candidates  # Rows gathered at a time for exact distances.
        candidates = self.queries * at_once * self.channels * self.item
        candidates += IN_FULL_AT_ONCE * self.rows * KEY_BYTES if settings.proven else 0
        if settings.chunk is None or settings.chunk >= self.rows:
            return self.queries * self.rows * self.item + candidates + FIXED_BYTES
        return self.queries * settings.chunk * KEY_BYTES + candidates + FIXED_BYTES


@dataclass(frozen=True)
class SearchBudget:
    """Search settings and the memory that they need.

    Attributes:
        settings: Settings of every bank.
        bytes: Scratch memory of the largest search.
        whole_bytes: Scratch memory of the whole product.
        budget_bytes: Stated budget, or the default.
    """

    settings: SearchSettings
    bytes: int
    whole_bytes: int
    budget_bytes: int

    @property
    def is_default(self) -> bool:
        """Return True if a trained detector already searches with these settings."""
        return self.settings == SearchSettings()

    def to_json(self) -> dict[str, Any]:
        """Return the record in a bundle's manifest."""
        return {
            "plan": self.settings.to_json(),
            "scratch_bytes": self.bytes,
            "whole_scratch_bytes": self.whole_bytes,
            "budget_bytes": self.budget_bytes,
        }


@torch.no_grad()
def bank_sizes(detector: SearchableDetector, inputs: Mapping[str, Tensor], precision: str) -> list[BankSize]:
    """Return the sizes of a detector's searches in a precision, given the network inputs of one sample.

    The number of distinct rows of a cloud varies: at most one for each cell and one for the background.
    """
    patches = detector.patches(*(inputs[name] for name in detector.input_names))
    item = 4 if precision in ("fp32", "int8-cpu") else 2  # Bytes of a number of the product.
    return [
        BankSize(_most_queries(rows, cells, "weights" in inputs), len(search.rows), search.rows.shape[1], item)
        for search, (rows, cells) in zip(detector.searches, patches, strict=False)  # residuals are not searched
    ]


def _most_queries(rows: Tensor, cells: Tensor, cloud: bool) -> int:
    return max(len(rows), len(cells) + 1) if cloud else len(rows)


def choose_search(sizes: list[BankSize], measured: SearchSettings, megabytes: float | None) -> SearchBudget:
    """Choose the whole product if it fits into the budget, else a loop.

    Args:
        sizes: Size of each bank.
        measured: Settings without a chunk: how candidates are found.
        megabytes: Budget for scratch memory in 10⁶ bytes; DEFAULT_MEGABYTES if None.

    Raises:
        EngineError: Not even the smallest chunk fits.
    """
    budget = int(1_000_000 * (DEFAULT_MEGABYTES if megabytes is None else megabytes))
    whole = max(size.scratch(measured) for size in sizes)
    if whole <= budget:
        return SearchBudget(measured, whole, whole, budget)
    settings = replace(measured, chunk=_largest_chunk(sizes, measured, budget))
    return SearchBudget(settings, max(size.scratch(settings) for size in sizes), whole, budget)


def _largest_chunk(sizes: list[BankSize], settings: SearchSettings, budget: int) -> int:
    """Return the most rows at a time that fit, in steps of SMALLEST_CHUNK, at most half of the largest bank."""
    half = max(settings.candidates, max(size.rows for size in sizes) // 2)
    least = min(SMALLEST_CHUNK, half)
    fitting = min((budget - size.scratch(replace(settings, chunk=0))) // (size.queries * KEY_BYTES) for size in sizes)
    if fitting < least:
        needed = max(size.scratch(replace(settings, chunk=least)) for size in sizes)
        raise EngineError(
            "--search-mb",
            found=f"{budget / 1e6:.0f}",
            expected=f"at least {math.ceil(needed / 1e6)}, which {least} rows of the bank at a time need",
            action="allow more memory, or train with fewer patches (a coarser grid)",
        )
    return half if half <= fitting else max(least, fitting // SMALLEST_CHUNK * SMALLEST_CHUNK)
