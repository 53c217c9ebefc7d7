"""The machine that a training runs on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmdiad_runtime.errors import RunError


@dataclass(frozen=True)
class Machine:
    """Resources of a training. They change the result by rounding at most.

    Attributes:
        device: "auto" (CUDA if available), "cpu" or "cuda".
        cache_gb: Disk space for cached features, in gigabytes (1e9 bytes).
    """

    device: str = "auto"
    cache_gb: float = 50.0

    @property
    def cache_bytes(self) -> int:
        """Return the disk space for cached features in bytes."""
        return int(self.cache_gb * 1e9)

    def torch_device(self) -> torch.device:
        """Return the device; RunError if CUDA is requested and not available."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RunError(
                "--device cuda",
                found=f"no CUDA device (torch {torch.__version__})",
                expected="a GPU and a CUDA build of torch",
                action="Use --device cpu, or install torch for CUDA",
            )
        cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if cuda else "cpu")
