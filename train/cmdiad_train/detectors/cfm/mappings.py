"""The two mappings between the modalities, and how far their output is from the features that they predict."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmdiad_train.detectors.cfm.features import CellFeatures
from cmdiad_train.detectors.feature_mapping import FeatureToFeature

_LEAST_NORM = 1e-8


class Mappings(nn.Module):
    """Predicts the features of each modality from those of the other at the same cell.

    Args:
        xyz: Channels of the features of the cloud.
        rgb: Channels of the features of the image.
        expansion: Hidden width of a mapping as a multiple of the width of its input.
    """

    def __init__(self, xyz: int, rgb: int, expansion: float) -> None:
        super().__init__()
        self.to_xyz = FeatureToFeature(rgb, xyz, expansion=expansion)
        self.to_rgb = FeatureToFeature(xyz, rgb, expansion=expansion)

    def forward(self, features: CellFeatures) -> CellFeatures:
        """Return the predicted features of both modalities, float32 `[n, C]`, of measured ones."""
        return CellFeatures(self.to_xyz(features.rgb).float(), self.to_rgb(features.xyz).float())


def residual(predicted: Tensor, measured: Tensor) -> Tensor:
    """Return the distance between predicted and measured features of unit length, float32 `[n]`, 0 to 2.

    Args:
        predicted: Features float32 `[n, C]` that a mapping returns.
        measured: Features float32 `[n, C]` of the extractor.
    """
    return torch.linalg.vector_norm(_unit(predicted) - _unit(measured), dim=1)


def mapping_loss(predicted: CellFeatures, measured: CellFeatures) -> Tensor:
    """Return the sum of both cosine distances, mean over the cells: scalar, 0 to 4."""
    pairs = zip(predicted, measured, strict=True)
    return torch.stack([1 - (_unit(a) * _unit(b)).sum(1).mean() for a, b in pairs]).sum()


def _unit(rows: Tensor) -> Tensor:
    return rows / (rows * rows).sum(1, keepdim=True).sqrt().clamp(min=_LEAST_NORM)
