"""Extractors: a small closed set of kinds that turn network inputs into patch features."""

from cmdiad_train.extractors.point_mae import PointMae
from cmdiad_train.extractors.timm_backbone import TimmBackbone

__all__ = ["PointMae", "TimmBackbone"]
