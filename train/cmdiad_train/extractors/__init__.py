"""Extractors: networks of a few fixed kinds that compute patch features from network inputs."""

from cmdiad_train.extractors.point_mae import PointMae
from cmdiad_train.extractors.timm_backbone import TimmBackbone

__all__ = ["PointMae", "TimmBackbone"]
