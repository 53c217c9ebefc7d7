"""Which parts of a detector compute in fp16. The precision lives in the graph: there are no builder flags."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cmdiad_train.detector import Detector
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.hallucination import FeatureToFeature, FeatureToInput
from cmdiad_train.patches import Extractor, Hallucinated, PatchFeatures

Precision = str
""""fp32" or "fp16"."""


class Fp32Island(nn.Module):
    """A module that computes in fp32 inside an fp16 network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.float()

    def forward(self, x: Tensor) -> Tensor:
        """Run in fp32 and give the result back in fp16."""
        return self.module(x.float()).half()


def to_precision(detector: Detector, precision: Precision) -> Detector:
    """A copy of an fp32 detector whose networks and bank products compute in `precision`.

    fp32 islands of an fp16 detector: image normalisation, LayerNorm, BatchNorm of the point encoder, everything
    that sees coordinates in metres, exact distances, scores and maps. Where F2I generates a cloud, all that it
    comes from stays fp32 too: farthest point sampling takes other points for another last digit.
    """
    detector = copy.deepcopy(detector)
    if precision == "fp32":
        return detector
    for features in detector.features:
        assert isinstance(features, PatchFeatures)
        if detector.hallucinated is None or detector.hallucinated.cloud is None:
            _half_extractor(features.extractor)
    if detector.hallucinated is not None:
        _half_hallucinated(detector.hallucinated)
    detector.halve_banks()
    return detector


def _half_extractor(extractor: Extractor) -> None:
    if isinstance(extractor, TimmBackbone):
        extractor.model = _half(extractor.model)
    else:
        _half_points(extractor)


def _half(module: nn.Module, keep: tuple[nn.Module, ...] = ()) -> nn.Module:
    """Take a network to fp16, except LayerNorms, which become islands, and the modules to `keep`."""
    norms = {name: child for name, child in module.named_modules() if isinstance(child, nn.LayerNorm)}
    kept = {id(child) for child in (*norms.values(), *(m for k in keep for m in k.modules()))}
    for child in module.modules():
        if id(child) not in kept:
            _half_own_tensors(child)
    for name, norm in norms.items():
        module.set_submodule(name, Fp32Island(norm))
    return module


def _half_own_tensors(module: nn.Module) -> None:
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half()


def _half_points(extractor: PointMae) -> None:
    """The point encoder in fp16, but for what sees coordinates in metres and BatchNorm's statistics."""
    encoder = extractor.encoder
    keep = (encoder.first_conv[0], encoder.first_conv[1], encoder.second_conv[1], extractor.pos_embed)
    _half(extractor, keep)


def _half_hallucinated(hallucinated: Hallucinated) -> None:
    """A generated cloud stays in fp32: its coordinates are metres."""
    network = hallucinated.network
    if isinstance(network, FeatureToFeature):
        network.set_submodule("norm", Fp32Island(network.norm))
        _half(network.mlp)
    elif not (isinstance(network, FeatureToInput) and hallucinated.cloud is not None):
        for layer in network.children():
            _half(layer)
    if hallucinated.extractor is not None:
        _half_extractor(hallucinated.extractor)


def island_names(detector: nn.Module) -> list[str]:
    """Names of the modules with parameters that compute in fp32, for the record."""
    return sorted(
        name
        for name, module in detector.named_modules()
        if any(p.dtype == torch.float32 for p in module.parameters(recurse=False))
    )
