"""Official releases of weights: their file names, the timm models that they belong to, and their licences."""

from __future__ import annotations

import re
from typing import Any

from cmdiad_train.extractors.point_mae import PREFIXES
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable

LICENCES = {
    "dino": "Apache-2.0",
    "dinov2": "Apache-2.0",
    "dinov3": "DINOv3 License (Meta's own: read it before you ship anything)",
    "point_mae": "MIT",
    "point_bert": "MIT",
}
"""Licence of each official release."""
_DINOV3_BACKBONES = {
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3",
    "dinov3_vit7b16": "vit_7b_patch16_dinov3",
    "dinov3_convnext_tiny": "convnext_tiny",
    "dinov3_convnext_small": "convnext_small",
    "dinov3_convnext_base": "convnext_base",
    "dinov3_convnext_large": "convnext_large",
}
_DINOV3_DATA = {"lvd1689m": {"vit": "lvd1689m", "convnext": "dinov3_lvd1689m"}, "sat493m": {"vit": "sat493m"}}


def release_of(name: str, state: dict[str, Any]) -> str:
    """Return the release that a file's key names or name belong to, "timm" if neither is known."""
    keys = [str(key).removeprefix("module.") for key in state.get("base_model", state)]
    for kind, prefix in PREFIXES.items():
        if any(key.startswith(prefix) for key in keys):
            return kind
    return next((kind for kind in ("dinov3", "dinov2", "dino") if name.startswith(f"{kind}_")), "timm")


def official_backbone(name: str) -> str | None:
    """Return the timm model whose official file has this name, or None."""
    stem = re.match(r"(dinov3_[a-z0-9_]+?)_pretrain_([a-z0-9]+)", name)
    if stem and stem[1] in _DINOV3_BACKBONES:
        backbone = _DINOV3_BACKBONES[stem[1]]
        tag = _DINOV3_DATA.get(stem[2], {}).get(backbone.split("_")[0])
        return f"{backbone}.{tag}" if tag else None
    timm = _timm()
    return next((n for n in timm.list_pretrained() if _file_name(timm.get_pretrained_cfg(n).url) == name), None)


def _file_name(url: str | None) -> str:
    return (url or "").rpartition("/")[2]


def timm_licence(name: str) -> str | None:
    """Return the licence in timm's record of a model name, or None."""
    config = _timm().get_pretrained_cfg(name, allow_unregistered=True)
    return config.license if config else None


def _timm() -> Any:
    make_torchvision_importable()
    import timm

    return timm
