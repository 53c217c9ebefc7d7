"""Features of an image in the cells of the grid, from a frozen timm network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.recipe import RgbExtractor
from cmdiad_train.recipe.ast import PUBLISHED_CELL

PUBLISHED_NETWORK = "tf_efficientnet_b5"
_PUBLISHED_GROUPS = 6
"""Groups of blocks up to the published features, which have 304 channels and stride 32."""
_PUBLISHED_PADDING = {"1.0": (0, 1), "2.0": (1, 2), "3.0": (1, 1), "5.0": (2, 2)}
"""Rows or columns of zeros before and after the image, by group and block with stride 2."""
_STEM_PADDING = (0, 1)


class CellFeatures(nn.Module):
    """Features of a frozen network in the cells of a grid.

    Args:
        spec: Backbone, stages and weights.
        size: Side of the square input in pixels.
        grid: Side of the grid.
        seed: Seed of the random weights if `spec.weights` is "seeded".
        published: True to take the features of EfficientNet-B5 exactly as published, see `publish`.

    Raises:
        RunError: The backbone is unknown, it has no such stages, its tokens are another grid, or its weights are
            missing or do not fit.

    Attributes:
        backbone: The network with its normalisation.
        channels: Channels of the features.
    """

    def __init__(self, spec: RgbExtractor, *, size: int, grid: int, seed: int = 0, published: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.backbone = TimmBackbone(replace(spec, grid=grid if spec.stages else None), size=size, seed=seed)
        self._published = published and spec.backbone.partition(".")[0] == PUBLISHED_NETWORK
        self.channels, own_grid = self.backbone.width, self.backbone.grid
        if self._published:
            publish(self.backbone.model)
            self.channels = int(self.backbone.model.blocks[-1][-1].conv_pwl.out_channels)
            own_grid = size // PUBLISHED_CELL
        if own_grid != grid:
            raise RunError(
                f"backbone {spec.backbone}",
                found=f"a grid of {own_grid} x {own_grid} tokens",
                expected=f"one of {grid} x {grid}, the cells of the detector",
                action="Change --size or --cell, or choose a CNN",
            )

    def forward(self, image: Tensor) -> Tensor:
        """Return features `[B, channels, grid, grid]` of RGB images `[B, size, size, 3]`, 0-255."""
        normalised = self.backbone.normalise(image)
        if self._published:
            model = self.backbone.model
            features: Tensor = model.blocks(model.bn1(model.conv_stem(normalised.to(model.bn1.weight.dtype))))
            return features
        tokens = self.backbone.tokens(normalised)
        return tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))

    def train(self, mode: bool = True) -> CellFeatures:
        """Stay in eval mode, also when a module around the network is trained."""
        return super().train(False)


def publish(model: Any) -> None:
    """Cut timm's EfficientNet-B5 after the published block, and fix its padding as the published package does.

    The package computes the padding of its convolutions for images of 456 pixels, and keeps it for other sizes. timm
    computes the padding of each image, which would shift two of the grids by a pixel.

    Args:
        model: Network of timm, changed in place.
    """
    model.blocks = model.blocks[:_PUBLISHED_GROUPS]
    model.conv_stem = _padded(model.conv_stem, _STEM_PADDING)
    for place, padding in _PUBLISHED_PADDING.items():
        block = model.blocks.get_submodule(place)
        block.conv_dw = _padded(block.conv_dw, padding)
    for name in [name for name, _ in model.named_children() if name not in ("conv_stem", "bn1", "blocks")]:
        setattr(model, name, nn.Identity())


def _padded(convolution: nn.Conv2d, padding: tuple[int, int]) -> nn.Sequential:
    """Return explicit zero padding and a convolution with the weights of one that computes its padding itself."""
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]  # a pair
        convolution.stride,  # type: ignore[arg-type]
        groups=convolution.groups,
        bias=False,
    )
    plain.weight = convolution.weight
    return nn.Sequential(nn.ZeroPad2d(padding * 2), plain)
