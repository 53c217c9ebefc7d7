"""The machine that a training runs on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmdiad_runtime.errors import OutputError, RunError

if TYPE_CHECKING:
    import torch

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""Texts by which torch reports that an allocation failed, in addition to MemoryError."""

DEVICES = ("auto", "cpu", "cuda")
CACHE_GB = 50.0
"""Disk space for cached features unless `--cache-gb` says otherwise, in gigabytes (1e9 bytes)."""


@dataclass(frozen=True)
class Machine:
    """Resources of a training. They change the result by rounding at most.

    Attributes:
        device: "auto" (CUDA if available), "cpu" or "cuda".
        cache_gb: Disk space for cached features, in gigabytes (1e9 bytes).
    """

    device: str = "auto"
    cache_gb: float = CACHE_GB

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cache_gb) and self.cache_gb > 0):
            raise RunError(
                "--cache-gb", found=str(self.cache_gb), expected="a number above 0", action="Change the option"
            )

    @property
    def cache_bytes(self) -> int:
        """Return the disk space for cached features in bytes."""
        return int(self.cache_gb * 1e9)

    def torch_device(self) -> torch.device:
        """Return the device; RunError if CUDA is requested and not available."""
        import torch  # here, so that commands import this module for their options without it

        if self.device == "cuda" and not torch.cuda.is_available():
            raise RunError(
                "--device cuda",
                found=f"no CUDA device (torch {torch.__version__})",
                expected="a GPU and a CUDA build of torch",
                action="Use --device cpu, or install torch for CUDA",
            )
        cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if cuda else "cpu")


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn failed allocations of NumPy, Pillow and torch in the block into an OutputError of one line.

    Raises:
        OutputError: The memory of the machine or of its GPU is too small.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        raise OutputError(
            "",
            found="The memory of this machine is too small for the training",
            action="Close other programs, or train with a smaller --size, and run the same command again to resume",
        ) from error
