"""Keep the tensors of one job on disk: one safetensors file per sample, memory-mapped when read, within a budget.

This cache belongs to one job, which needs all entries until the job is finished. A job that does not fit is therefore
refused at the first sample. Features that several trainings share are in `cmdiad_train.features`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.runs.tensors import load_tensors, save_tensors

Stored = dict[str, Tensor]
"""Tensors of one sample by name, memory-mapped: pages are read when touched and dropped when memory is short."""


class FeatureCache:
    """A folder of cached tensors.

    Args:
        folder: Folder of the cache, with one sub-folder per kind of entry.
        budget: Largest size of all entries in bytes.
    """

    def __init__(self, folder: Path, *, budget: int) -> None:
        self.folder, self.budget = folder, budget
        self._planned: dict[str, int] = {}

    def get(self, kind: str, sample: str, samples: int, make: Callable[[], Stored]) -> Stored:
        """Return the tensors of a sample: from disk, else from `make`, whose result is kept.

        Args:
            kind: Name of the sub-folder, such as a modality.
            sample: Name of the sample.
            samples: Number of samples of this kind; with the size of the first one it predicts the size of all.
            make: Computes the tensors.

        Raises:
            RunError: All samples of this kind would exceed the budget or the free disk space.
        """
        file = self._file(kind, sample)
        if not file.exists():
            tensors = {name: tensor.cpu() for name, tensor in make().items()}
            self._plan(kind, sum(t.numel() * t.element_size() for t in tensors.values()) * samples)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(file, tensors)
        return load_tensors(file)

    def read(self, kind: str, sample: str) -> Stored:
        """Return the tensors of a sample from disk."""
        return load_tensors(self._file(kind, sample))

    def has(self, kind: str, sample: str) -> bool:
        """Return True if the tensors of a sample are on disk."""
        return self._file(kind, sample).exists()

    def drop(self, kind: str) -> None:
        """Delete the tensors of all samples of a kind."""
        shutil.rmtree(self.folder / kind, ignore_errors=True)
        self._planned.pop(kind, None)

    def _file(self, kind: str, sample: str) -> Path:
        return self.folder / kind / (sample.replace("/", "-") + ".safetensors")

    def _plan(self, kind: str, needed: int) -> None:
        if kind in self._planned:
            return
        self._planned[kind] = needed
        total = sum(self._planned.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if total > self.budget or needed > free:
            raise RunError(
                self.folder,
                found=f"features that will take {total / 1e9:.3g} GB ({free / 1e9:.3g} GB of disk are free)",
                expected=f"at most {min(self.budget, free) / 1e9:.3g} GB",
                action="Raise --cache-gb, free disk space, or train on fewer samples",
            )
