"""Recognise the timm architecture of a weights file by the names and shapes of its tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable

ARCHITECTURES = (
    "resnet10t",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnetv2_50",
    "resnetv2_101",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "convnext_atto",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "densenet121",
    "deit_tiny_patch16_224",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_small_patch8_224",
    "vit_base_patch16_224",
    "vit_base_patch8_224",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch14_reg4_dinov2",
)
"""Architectures that are tried if neither the file name nor a `config.json` names one."""
_POSITIONS = "pos_embed"  # depends on the size of the images


@dataclass(frozen=True)
class Match:
    """The architecture that a file of weights fits.

    Attributes:
        architecture: timm model name without a tag.
        tensors: Number of tensors of the file that the network takes.
        expected: Number of parameters and buffers of the network.
        ignored: Names of tensors of the classifier, which no detector needs.
    """

    architecture: str
    tensors: int
    expected: int
    ignored: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Return the share of the network that the file holds."""
        return self.tensors / self.expected


def recognise(state: Mapping[str, Any], source: Path) -> Match | None:
    """Return the architecture of weights with timm's key names, or None if no known one fits.

    The file may lack layers, but every tensor must belong to the network and have its shape. A name in `config.json`
    or in the file name decides between architectures that both fit; otherwise the one that the file fills best does.

    Args:
        state: Tensors by name.
        source: File of the tensors.
    """
    for name in (*named_in_config(source), source.name):
        architecture = architecture_in(name)
        match = None if architecture is None else fit(state, architecture)
        if match is not None:
            return match
    best: Match | None = None
    for name in ARCHITECTURES:
        match = fit(state, name)
        if match is not None and match.coverage == 1:
            return match
        if match is not None and (best is None or match.coverage > best.coverage):
            best = match
    return best


def fit(state: Mapping[str, Any], architecture: str) -> Match | None:
    """Return how weights fit an architecture, or None if a tensor has another name or shape."""
    model = _blueprint(architecture)
    if model is None:
        return None
    shapes = {key: value.shape for key, value in model.state_dict(keep_vars=True).items()}
    ignored = head_tensors(model, state)
    body = {key: value for key, value in state.items() if key not in ignored}
    for key, value in body.items():
        if not isinstance(value, Tensor) or key not in shapes:
            return None
        if value.shape != shapes[key] and key != _POSITIONS:
            return None
    return Match(architecture, len(body), len(shapes), ignored) if body else None


def head_tensors(model: Any, keys: Iterable[str]) -> tuple[str, ...]:
    """Return the names of tensors that belong to the classifier of a timm model, which features do not need."""
    names = model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    own = set(model.state_dict())
    return tuple(sorted(key for key in keys if str(key).startswith(heads) and key not in own)) if heads else ()


def architecture_in(name: str) -> str | None:
    """Return the architecture that a file name or timm name starts with ("resnet18.tv_in1k.safetensors"), or None."""
    make_torchvision_importable()
    import timm

    stem = name.partition(".")[0]
    return stem if timm.is_model(stem) else None


def named_in_config(source: Path) -> tuple[str, ...]:
    """Return the full timm name in the `config.json` next to a file from timm's hub, or nothing."""
    try:
        config = json.loads(source.with_name("config.json").read_text(encoding="utf-8"))
        architecture, tag = config["architecture"], config.get("pretrained_cfg", {}).get("tag")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
    if not isinstance(architecture, str):
        return ()
    return (f"{architecture}.{tag}" if isinstance(tag, str) and tag else architecture,)


@cache
def _blueprint(architecture: str) -> Any:
    """Return a timm model without a classifier and without memory for its weights, or None if timm cannot build one."""
    make_torchvision_importable()
    import timm

    try:
        with torch.device("meta"):
            return timm.create_model(architecture, num_classes=0)
    except Exception:  # an architecture that needs values while it is built is not recognised
        return None
