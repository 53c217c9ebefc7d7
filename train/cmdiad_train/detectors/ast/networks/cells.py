"""The network inputs of a sample as features and weights of the cells of one grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.names import Modality
from cmdiad_train.detectors.ast.networks.extractor import CellFeatures
from cmdiad_train.recipe import Recipe, ast_part

INPUTS: dict[Modality, str] = {"rgb": "rgb", "xyz": "surface"}
"""Network input of each modality, `[1, size, size, 3]`: an image uint8, or an image of the surface float32."""
CELL_PIXELS = 8
"""Side of a cell in pixels of the image of a cloud."""
_DEPTH, _PART = 0, 1
"""Channels of the published depth image: depth in centimetres, and 1 on the part."""
_GROWN = (3, 4)
"""Pixels by which the published mask of the part grows to the lower right and to the upper left."""


class Cells(nn.Module):
    """Features of all cells: those of the image's network, then the pixels of the image of the cloud, as channels.

    Args:
        recipe: Recipe of the detector.
        extractor: Network for images; None without images.

    Attributes:
        grid: Side of the grid.
        channels: Channels of the features.
        masked: True if only cells of the part count, as published for clouds.
    """

    def __init__(self, recipe: Recipe, extractor: CellFeatures | None) -> None:
        super().__init__()
        part = ast_part(recipe)
        self.grid, self._share = recipe.size // part.cell, part.cell // CELL_PIXELS
        self.extractor, self._sees_cloud = extractor, recipe.modality != "rgb"
        self._depth = part.geometry == "depth"
        self.masked = part.mode == "faithful" and self._sees_cloud and self._depth
        surface = (1 if self._depth else 3) * CELL_PIXELS**2 if self._sees_cloud else 0
        self.channels = surface + (0 if extractor is None else extractor.channels)

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return features and weights of the cells.

        Args:
            inputs: Network inputs by name, see `INPUTS`.

        Returns:
            Features float32 `[B, channels, grid, grid]`, and weights `[B, 1, grid, grid]`: the share of the part in
            each cell if `masked`, else 1.
        """
        features = [] if self.extractor is None else [self.extractor(inputs["rgb"]).float()]
        if not self._sees_cloud:
            return features[0], torch.ones_like(features[0][:, :1])
        small = F.avg_pool2d(inputs["surface"].permute(0, 3, 1, 2), self._share)
        pixels = small[:, _DEPTH : _DEPTH + 1] if self._depth else small
        features.append(F.pixel_unshuffle(pixels, CELL_PIXELS))
        weights = _share_of_part(small[:, _PART : _PART + 1]) if self.masked else torch.ones_like(features[0][:, :1])
        return torch.cat(features, 1), weights


def _share_of_part(part: Tensor) -> Tensor:
    """Return the published mask of the cells `[B, 1, grid, grid]`, 0 to 1 in quarters.

    The part grows by a block of 8 x 8 pixels. Bilinear interpolation then takes the four pixels in the middle of each
    cell.

    Args:
        part: 1 on the part, else 0, `[B, 1, 8·grid, 8·grid]`.
    """
    grown = F.max_pool2d(F.pad(part, _GROWN * 2), CELL_PIXELS, stride=1)
    middle = CELL_PIXELS // 2 - 1
    return F.avg_pool2d(grown[:, :, middle:-middle, middle:-middle], 2, stride=CELL_PIXELS)


class Standardisation(nn.Module):
    """Features minus the mean of each channel, divided by its deviation over good samples.

    Args:
        channels: Number of channels.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return standardised features `[B, C, h, w]`."""
        return (features - self.mean) / self.deviation
