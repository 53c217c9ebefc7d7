"""Names of a bank detector's submodules by the precision that they may compute in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmdiad_train.detectors.bank.features.patches import Extractor, PatchFeatures
from cmdiad_train.detectors.family import PrecisionParts
from cmdiad_train.extractors import PointMae, TimmBackbone

if TYPE_CHECKING:
    from cmdiad_train.detectors.bank.detector import Detector

METRES = ("encoder.first_conv.0", "encoder.first_conv.1", "encoder.second_conv.1", "pos_embed")
"""Parts of the point transformer that see coordinates in metres, and its BatchNorms."""


def precision_parts(detector: Detector) -> PrecisionParts:
    """Return the parts of a bank detector.

    Image normalisation, everything that sees coordinates in metres, exact distances, scores and maps are fp32 in every
    graph. If F2I generates a cloud, everything that the cloud depends on stays fp32 too: farthest point sampling picks
    other points when the last digit of a coordinate changes.
    """
    extractors = _extractors(detector)
    hallucination = [("hallucination network", tuple(_hallucination(detector)))] if detector.hallucinated else []
    joined = [("fusion network", ("joined",))] if detector.joined is not None else []
    return PrecisionParts(
        networks=tuple(_networks(detector, extractors)),
        always_single=tuple(_always_single(detector, extractors)),
        steps=(*hallucination, *joined, ("extractors", tuple(extractors))),
    )


def _extractors(detector: Detector) -> dict[str, Extractor]:
    extractors = {
        f"features.{i}.extractor": features.extractor
        for i, features in enumerate(detector.features)
        if isinstance(features, PatchFeatures)
    }
    if detector.hallucinated is not None and detector.hallucinated.extractor is not None:
        extractors["hallucinated.extractor"] = detector.hallucinated.extractor
    return extractors


def _networks(detector: Detector, extractors: dict[str, Extractor]) -> list[str]:
    names = [f"{name}.model" if isinstance(e, TimmBackbone) else name for name, e in extractors.items()]
    names += [] if detector.joined is None else [f"joined.{name}" for name in detector.joined.networks]
    for network in _hallucination(detector):
        names += [f"{network}.{name}" for name, _ in detector.get_submodule(network).named_children()]
    return names


def _hallucination(detector: Detector) -> list[str]:
    """Return the names of the network that hallucinates and, for residuals, of its inverse."""
    if detector.hallucinated is None:
        return []
    has_inverse = detector.hallucinated.compared.inverse is not None
    return ["hallucinated.network", *(["hallucinated.compared.inverse"] if has_inverse else [])]


def _always_single(detector: Detector, extractors: dict[str, Extractor]) -> list[str]:
    names = [f"{name}.{part}" for name, module in extractors.items() if isinstance(module, PointMae) for part in METRES]
    if detector.hallucinated is not None and detector.hallucinated.cloud is not None:
        names += [*(f"features.{i}.extractor" for i in range(len(detector.features))), "hallucinated.network"]
    return names
