"""Network inputs of samples that a run keeps for export, in safetensors files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from cmdiad_runtime.bundle.golden import tampered_by_name
from cmdiad_train.runs.tensors import load_tensors, save_tensors


@dataclass(frozen=True)
class StoredSample:
    """Network inputs of one sample.

    Attributes:
        name: Name of the sample. Files have no other place for the label, so the name of a tampered copy ends in
            `-tampered`.
        tampered: True for a tampered copy of a good sample.
        inputs: Network inputs by name.
    """

    name: str
    tampered: bool
    inputs: Mapping[str, Tensor] = field(repr=False)

    def __post_init__(self) -> None:
        assert self.tampered == tampered_by_name(self.name)

    def inputs_of(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the inputs with these names, in this order."""
        return {name: self.inputs[name] for name in names}


def save_samples(path: Path, samples: Iterable[StoredSample]) -> None:
    """Write samples; the tensors are named `SAMPLE:INPUT`."""
    save_tensors(path, {f"{s.name}:{key}": value for s in samples for key, value in s.inputs.items()})


def load_samples(path: Path) -> tuple[StoredSample, ...]:
    """Read samples, sorted by name; raises RunError if that fails."""
    inputs: dict[str, dict[str, Tensor]] = {}
    for key, value in sorted(load_tensors(path).items()):
        sample, _, name = key.rpartition(":")
        inputs.setdefault(sample, {})[name] = value
    return tuple(StoredSample(name, tampered_by_name(name), stored) for name, stored in inputs.items())
