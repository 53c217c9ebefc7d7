"""Cast parts of a detector to fp16. The precision is a property of the graph: engine builders need no flags."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from cmdiad_export.precision.levels import Level, attention_names, is_within
from cmdiad_runtime.engines import Precision
from cmdiad_train.detectors.family import TrainedDetector


class Fp32Island(nn.Module):
    """A module that computes in fp32 inside an fp16 network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.float()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Compute in fp32 and return the result in fp16. Arguments that are not floating tensors are passed on."""
        result = self.module(*map(_single, inputs), **{name: _single(value) for name, value in options.items()})
        return result.half()


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def to_precision(detector: TrainedDetector, precision: Precision, level: Level | None = None) -> TrainedDetector:
    """Return a copy of an fp32 detector whose networks and stored data are in `precision`.

    The fp32 islands of an fp16 detector are LayerNorm, the parts that its family names in
    `PrecisionParts.always_single`, everything around the networks, and the modules of the level.

    For int8 and fp8 the result is what is then quantised as a graph: networks in fp32 and stored data in fp16. For
    int8-cpu the data are stored in fp16 and multiplied in fp32, because processors have no fp16 products.
    """
    parts = detector.precision_parts()
    detector = copy.deepcopy(detector)
    if precision == "fp32":
        return detector
    if precision == "fp16":
        kept = (*parts.always_single, *(level or Level()).modules)
        attention = [name for name in attention_names(detector) if is_within(name, kept)]
        for name in parts.networks:
            _half(detector, name, kept)
        for name in attention:
            if not is_within(name, [network for network in parts.networks if is_within(network, kept)]):
                detector.set_submodule(name, Fp32Island(detector.get_submodule(name)))
    detector.halve_stored_data(products=precision != "int8-cpu")
    return detector


def _half(detector: nn.Module, network: str, kept: Collection[str]) -> None:
    """Cast a network to fp16, except for the kept modules, and LayerNorms, which become islands."""
    if is_within(network, kept):
        return
    for name, module in list(detector.get_submodule(network).named_modules(prefix=network)):
        if is_within(name, kept):
            continue
        if isinstance(module, nn.LayerNorm):
            detector.set_submodule(name, Fp32Island(module))
        else:
            _half_own_tensors(module)


def _half_own_tensors(module: nn.Module) -> None:
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half()


def island_names(detector: nn.Module) -> list[str]:
    """Return the names of the modules with parameters that compute in fp32, for the record."""
    return sorted(
        name
        for name, module in detector.named_modules()
        if any(p.dtype == torch.float32 for p in module.parameters(recurse=False))
    )
