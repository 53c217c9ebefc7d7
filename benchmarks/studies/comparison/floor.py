"""Estimate the fastest possible time of a stage from the rates of a plain product and a plain copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

PRODUCT_SHAPE = (2048, 768, 4096)
COPY_BYTES = 1 << 28
SECONDS = 1.0
FLOPS_PER_MULTIPLY_ADD = 2


@dataclass(frozen=True)
class Rates:
    """Current rates of the machine with all cores.

    Attributes:
        multiply_adds: Multiply-adds per second of a float32 matrix product.
        copied_bytes: Bytes per second of a copy; bytes read and bytes written both count.
    """

    multiply_adds: float
    copied_bytes: float

    def better(self, other: Rates) -> Rates:
        """Return the faster of two measurements, since other load can only slow a measurement down."""
        return Rates(max(self.multiply_adds, other.multiply_adds), max(self.copied_bytes, other.copied_bytes))


@dataclass(frozen=True)
class Work:
    """Necessary work of a stage.

    Attributes:
        multiply_adds: Multiply-adds of products, convolutions and attention.
        moved_bytes: Bytes of weights, bank, inputs and outputs, each counted once.
    """

    multiply_adds: float
    moved_bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.multiply_adds + other.multiply_adds, self.moved_bytes + other.moved_bytes)

    def floor_ms(self, rates: Rates) -> float:
        """Return the milliseconds of the slower of the two at these rates."""
        return 1e3 * max(self.multiply_adds / rates.multiply_adds, self.moved_bytes / rates.copied_bytes)


def measure_rates(seconds: float = SECONDS) -> Rates:
    """Measure the rates of a plain matrix product and a plain copy, each repeated for the given seconds."""
    rows, width, columns = PRODUCT_SHAPE
    left, right = torch.randn(rows, width), torch.randn(width, columns)
    product = torch.empty(rows, columns)
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    return Rates(
        rows * width * columns * _per_second(lambda: torch.mm(left, right, out=product), seconds),
        2 * COPY_BYTES * _per_second(lambda: target.copy_(source), seconds),
    )


@torch.no_grad()
def work_of(module: nn.Module, *inputs: Tensor) -> Work:
    """Count the multiply-adds of a module on these inputs and the bytes of its tensors, inputs and outputs."""
    counter = FlopCounterMode(display=False)
    with counter:
        outputs = module(*inputs)
    kept: list[Tensor] = [*module.parameters(), *module.buffers()]
    results = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    moved = sum(tensor.nbytes for tensor in (*kept, *inputs, *results))
    return Work(counter.get_total_flops() / FLOPS_PER_MULTIPLY_ADD, moved)


def total_work(parts: Iterable[Work]) -> Work:
    """Return the sum of several works."""
    return sum(parts, Work(0, 0))


def _per_second(work: Callable[[], Any], seconds: float) -> float:
    """Return repetitions per second of the fastest repetition, since other load can only slow one down."""
    work()
    best, start = float("inf"), time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        work()
        best = min(best, time.perf_counter() - now)
    return 1 / best
