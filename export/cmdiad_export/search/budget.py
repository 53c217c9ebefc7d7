"""How the banks are searched: the whole product at once, or in a loop over chunks of the bank for small devices.

The product of all queries with all bank rows is by far the largest array of a detector. A graph without a loop can be
captured as one CUDA graph, so the loop is for those devices only that have no room for the product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cmdiad_runtime.errors import EngineError
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.search.exact import SearchPlan
from cmdiad_train.detectors.bank.search.proven import IN_FULL_AT_ONCE

DEFAULT_MEGABYTES = 512
"""What a search may use where no budget is stated: a graphics card has that to spare, a Jetson has not."""
SMALLEST_CHUNK = 256
"""Fewer rows at a time would keep no GPU busy."""
KEY_BYTES = 4
"""Of a key inside the loop, in any precision of the bank."""
FIXED_BYTES = 10_000_000
"""Measured with TensorRT-RTX 1.7.1 on top of the keys and the candidates, at any size."""


@dataclass(frozen=True)
class BankSize:
    """What a search's memory depends on.

    Attributes:
        queries: at most, of one sample.
        rows: of the bank.
        channels: of both.
        item: bytes of a number of the bank.
    """

    queries: int
    rows: int
    channels: int
    item: int

    def scratch(self, plan: SearchPlan) -> int:
        """Bytes that a search by this plan needs besides the bank; see docs/precision.md for measured figures."""
        at_once = 1 if plan.proven else plan.candidates  # of the rows gathered for exact distances
        candidates = self.queries * at_once * self.channels * self.item
        candidates += IN_FULL_AT_ONCE * self.rows * KEY_BYTES if plan.proven else 0
        if plan.chunk is None or plan.chunk >= self.rows:
            return self.queries * self.rows * self.item + candidates + FIXED_BYTES
        return self.queries * plan.chunk * KEY_BYTES + candidates + FIXED_BYTES


@dataclass(frozen=True)
class SearchBudget:
    """A plan and the memory that it takes.

    Attributes:
        plan: for every bank.
        bytes: of scratch memory, of the largest search.
        whole_bytes: what the whole product would take.
        budget_bytes: what was stated, or the default.
    """

    plan: SearchPlan
    bytes: int
    whole_bytes: int
    budget_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The record in a bundle's manifest."""
        return {
            "plan": self.plan.to_json(),
            "scratch_bytes": self.bytes,
            "whole_scratch_bytes": self.whole_bytes,
            "budget_bytes": self.budget_bytes,
        }


@torch.no_grad()
def bank_sizes(detector: Detector, inputs: Mapping[str, Tensor], precision: str) -> list[BankSize]:
    """The sizes of a detector's searches in a precision, given the inputs of one sample.

    A cloud has another number of distinct rows each time, at most one for every cell and one for the background.
    """
    found = detector.patches(*(inputs[name] for name in detector.input_names))
    item = 4 if precision in ("fp32", "int8-cpu") else 2  # of a number of the product
    return [
        BankSize(_most_queries(rows, cells, "weights" in inputs), len(search.rows), search.rows.shape[1], item)
        for search, (rows, cells) in zip(detector.searches, found, strict=True)
    ]


def _most_queries(rows: Tensor, cells: Tensor, cloud: bool) -> int:
    return max(len(rows), len(cells) + 1) if cloud else len(rows)


def choose_search(sizes: list[BankSize], found_by: SearchPlan, megabytes: float | None) -> SearchBudget:
    """The plan for banks of these sizes: whole where that fits, else in a loop.

    Args:
        sizes: of each bank.
        found_by: how candidates are found.
        megabytes: budget for scratch memory, of 10⁶ bytes; DEFAULT_MEGABYTES where None.

    Raises:
        EngineError: not even the smallest chunk fits.
    """
    budget = int(1_000_000 * (DEFAULT_MEGABYTES if megabytes is None else megabytes))
    whole = max(size.scratch(found_by) for size in sizes)
    if whole <= budget:
        return SearchBudget(found_by, whole, whole, budget)
    plan = replace(found_by, chunk=_largest_chunk(sizes, found_by, budget))
    return SearchBudget(plan, max(size.scratch(plan) for size in sizes), whole, budget)


def _largest_chunk(sizes: list[BankSize], plan: SearchPlan, budget: int) -> int:
    """Rows at a time: as many as fit, in steps of SMALLEST_CHUNK, but no more than half of the largest bank."""
    half = max(plan.candidates, max(size.rows for size in sizes) // 2)
    least = min(SMALLEST_CHUNK, half)
    fitting = min((budget - size.scratch(replace(plan, chunk=0))) // (size.queries * KEY_BYTES) for size in sizes)
    if fitting < least:
        needed = max(size.scratch(replace(plan, chunk=least)) for size in sizes)
        raise EngineError(
            "--search-mb",
            found=f"{budget / 1e6:.0f}",
            expected=f"at least {math.ceil(needed / 1e6)}, what {least} rows of the bank at a time need",
            action="allow more memory, or train with fewer patches (a coarser grid)",
        )
    return half if half <= fitting else max(least, fitting // SMALLEST_CHUNK * SMALLEST_CHUNK)
