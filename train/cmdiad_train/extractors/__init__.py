"""Extractors: networks of a few fixed kinds that compute patch features from network inputs.

The networks are imported on first use, so that names, presets and downloads need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmdiad_train.extractors.point_mae import PointMae
    from cmdiad_train.extractors.timm_backbone import TimmBackbone

__all__ = ["PointMae", "TimmBackbone"]


def __getattr__(name: str) -> Any:
    """Import a network on first use."""
    if name == "PointMae":
        from cmdiad_train.extractors.point_mae import PointMae

        return PointMae
    if name == "TimmBackbone":
        from cmdiad_train.extractors.timm_backbone import TimmBackbone

        return TimmBackbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
