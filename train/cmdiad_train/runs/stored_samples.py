"""Network inputs of samples that a run keeps for export, in safetensors files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmdiad_runtime.bundle.golden import tampered_by_name
from cmdiad_runtime.preprocess.views.prepared import Placement
from cmdiad_train.runs.tensors import damaged, load_tensors, save_tensors

Map = npt.NDArray[np.float32]

_PLACEMENT = "placement/"


@dataclass(frozen=True)
class StoredSample:
    """Network inputs of one sample.

    Attributes:
        name: Name of the sample. Files have no other place for the label, so the name of a tampered copy ends in
            `-tampered`.
        tampered: True for a tampered copy of a good sample.
        inputs: Network inputs by name.
        placement: Position of the views over the sensor's image; None in the sensor view and in runs of earlier
            versions.
    """

    name: str
    tampered: bool
    inputs: Mapping[str, Tensor] = field(repr=False)
    placement: Placement | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        assert self.tampered == tampered_by_name(self.name)

    def inputs_of(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the inputs with these names, in this order."""
        return {name: self.inputs[name] for name in names}

    def over_sensor(self, anomaly_map: Map) -> Map:
        """Return a map of this sample over the sensor's padded square, float32 `[size, size]`."""
        return anomaly_map if self.placement is None else self.placement.to_sensor(anomaly_map)

    def each_over_sensor(self, maps: Map) -> Map:
        """Return maps `[maps, size, size]` of this sample, one for each bank, over the sensor's padded square."""
        return maps if self.placement is None else self.placement.each_to_sensor(maps)


def save_samples(path: Path, samples: Iterable[StoredSample]) -> None:
    """Write samples; the tensors are named `SAMPLE:INPUT`, and those of a placement `SAMPLE:placement/NAME`."""
    tensors: dict[str, Tensor] = {}
    for sample in samples:
        tensors |= {f"{sample.name}:{key}": value for key, value in sample.inputs.items()}
        if sample.placement is not None:
            placed = sample.placement.to_arrays()
            tensors |= {f"{sample.name}:{_PLACEMENT}{key}": torch.from_numpy(value) for key, value in placed.items()}
    save_tensors(path, tensors)


def load_samples(path: Path) -> tuple[StoredSample, ...]:
    """Read samples, sorted by name; raises RunError if that fails."""
    stored: dict[str, dict[str, Tensor]] = {}
    for key, value in sorted(load_tensors(path).items()):
        sample, _, name = key.rpartition(":")
        stored.setdefault(sample, {})[name] = value
    try:
        return tuple(_sample(name, tensors) for name, tensors in stored.items())
    except ValueError as error:
        raise damaged(path, error) from error


def _sample(name: str, tensors: Mapping[str, Tensor]) -> StoredSample:
    inputs = {key: value for key, value in tensors.items() if not key.startswith(_PLACEMENT)}
    placed = {key.removeprefix(_PLACEMENT): value.numpy() for key, value in tensors.items() if key not in inputs}
    placement = Placement.from_arrays(placed) if placed else None
    return StoredSample(name, tampered_by_name(name), inputs, placement)
