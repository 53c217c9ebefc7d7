"""Which parts of a detector compute in which type. The precision lives in the graph: there are no builder flags."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cmdiad_runtime.engines import Precision
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.hallucination import FeatureToFeature
from cmdiad_train.detectors.bank.patches import Extractor, PatchFeatures
from cmdiad_train.extractors import PointMae, TimmBackbone


@dataclass(frozen=True)
class Level:
    """How much of a reduced graph stays in fp32, beyond what always does.

    Attributes:
        name: what this level adds to the one before; "" for the first, which adds nothing.
        modules: names of all modules kept, those of the levels before included; of a quantised graph, of nodes.
        softmax: every softmax is kept too (fp16 only: quantised graphs never touch one).
    """

    name: str = ""
    modules: tuple[str, ...] = ()
    softmax: bool = False


class Fp32Island(nn.Module):
    """A module that computes in fp32 inside an fp16 network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.float()

    def forward(self, *given: Any, **named: Any) -> Any:
        """Run in fp32 and give the result back in fp16; what is no fp16 tensor is handed on as it is."""
        found = self.module(*map(_single, given), **{name: _single(value) for name, value in named.items()})
        return found.half()


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def is_within(module: str, modules: Collection[str]) -> bool:
    """Whether a module is one of these, or inside one of them, by name."""
    return any(module == other or module.startswith(f"{other}.") for other in modules)


def to_precision(detector: Detector, precision: Precision, level: Level | None = None) -> Detector:
    """A copy of an fp32 detector whose networks and bank products compute in `precision`.

    fp32 islands of an fp16 detector: image normalisation, LayerNorm, BatchNorm of the point encoder, everything
    that sees coordinates in metres, exact distances, scores and maps, and the level's modules. Where F2I generates
    a cloud, all that it comes from stays fp32 too: farthest point sampling takes other points for another last
    digit.

    For int8 and fp8 this is what is then quantised as a graph: networks in fp32, and the bank in fp16; for int8-cpu the
    bank's rows are in fp16 and its products in fp32, since processors have no products in fp16.
    """
    detector = copy.deepcopy(detector)
    if precision == "fp32":
        return detector
    if precision == "fp16":
        kept = (*always_single(detector), *(level or Level()).modules)
        attention = [name for name in attention_names(detector) if is_within(name, kept)]
        for name in _networks(detector):
            _half(detector, name, kept)
        for name in attention:
            if not is_within(name, [network for network in _networks(detector) if is_within(network, kept)]):
                detector.set_submodule(name, Fp32Island(detector.get_submodule(name)))
    detector.halve_banks(products=precision != "int8-cpu")
    return detector


def always_single(detector: Detector) -> tuple[str, ...]:
    """Names of the modules that stay fp32 in every graph: they see coordinates in metres, or make a cloud."""
    hallucinated = detector.hallucinated
    names = [
        f"{extractor}.{part}"
        for extractor, module in _extractors(detector).items()
        if isinstance(module, PointMae)
        for part in ("encoder.first_conv.0", "encoder.first_conv.1", "encoder.second_conv.1", "pos_embed")
    ]
    if hallucinated is not None and hallucinated.cloud is not None:
        names += [*(f"features.{i}.extractor" for i in range(len(detector.features))), "hallucinated.network"]
    return tuple(names)


def fp16_levels(detector: Detector) -> list[Level]:
    """The levels of fp32 islands to try in an fp16 graph, least first."""
    extractors = tuple(_extractors(detector))
    steps = [("attention", attention_names(detector))]
    steps += [("hallucination network", ("hallucinated.network",))] if detector.hallucinated is not None else []
    steps += [("extractors", extractors)]
    softmax = [Level("softmax", (), True)] if attention_names(detector) else []
    return [Level(), *softmax, *widening(steps, always_single(detector), softmax=bool(softmax))]


def widening(steps: list[tuple[str, tuple[str, ...]]], kept: tuple[str, ...], *, softmax: bool = False) -> list[Level]:
    """Levels that each add a step's modules to those before; steps that add nothing are left out."""
    levels: list[Level] = []
    modules: tuple[str, ...] = ()
    for name, added in steps:
        new = tuple(module for module in added if not is_within(module, (*kept, *modules)))
        if new:
            modules = (*modules, *new)
            levels.append(Level(name, modules, softmax))
    return levels


def attention_names(detector: nn.Module) -> tuple[str, ...]:
    """Names of the attention modules, projections included; timm and we name their classes so."""
    return tuple(name for name, module in detector.named_modules() if type(module).__name__.endswith("Attention"))


def _extractors(detector: Detector) -> dict[str, Extractor]:
    found = {
        f"features.{i}.extractor": features.extractor
        for i, features in enumerate(detector.features)
        if isinstance(features, PatchFeatures)
    }
    if detector.hallucinated is not None and detector.hallucinated.extractor is not None:
        found["hallucinated.extractor"] = detector.hallucinated.extractor
    return found


def _networks(detector: Detector) -> list[str]:
    """Names of the networks that compute in fp16. What surrounds them casts to and from it."""
    names = [f"{name}.model" if isinstance(e, TimmBackbone) else name for name, e in _extractors(detector).items()]
    hallucinated = detector.hallucinated
    if hallucinated is None:
        return names
    if isinstance(hallucinated.network, FeatureToFeature):
        return [*names, "hallucinated.network.norm", "hallucinated.network.mlp"]
    return [*names, *(f"hallucinated.network.{name}" for name, _ in hallucinated.network.named_children())]


def _half(detector: Detector, network: str, kept: Collection[str]) -> None:
    """Take a network to fp16, except the modules that are kept, and LayerNorms, which become islands."""
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
    """Names of the modules with parameters that compute in fp32, for the record."""
    return sorted(
        name
        for name, module in detector.named_modules()
        if any(p.dtype == torch.float32 for p in module.parameters(recurse=False))
    )
