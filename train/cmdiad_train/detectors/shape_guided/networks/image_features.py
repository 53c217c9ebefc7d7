"""Features of an image in a grid of cells: two stages of a convolutional network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.recipe import Recipe, RgbExtractor


class ImageFeatures(nn.Module):
    """A frozen image network. The module stays in eval mode.

    As published, each stage is averaged over 3 x 3 places without padding and then brought to the grid by adaptive
    averages. By default, stages are brought to the grid as in other families (`TimmBackbone`).

    Args:
        recipe: Recipe of the detector.
        spec: Image network of the recipe, or with other weights.
        published: True for the published averages.

    Raises:
        RunError: The network is unknown, its weights are missing or do not fit, or the grid does not divide the view.

    Attributes:
        grid: Side of the square grid of cells.
    """

    def __init__(self, recipe: Recipe, spec: RgbExtractor, *, published: bool) -> None:
        super().__init__()
        self.backbone = TimmBackbone(spec, size=recipe.size, seed=recipe.seed)
        self.grid: int = self.backbone.grid
        if recipe.size % self.grid:
            raise RunError(
                "recipe size",
                found=f"{recipe.size}",
                expected=f"a multiple of {self.grid}, the cells along a side of the image features",
                action="Change the option size",
            )
        self._pools: list[str] = []
        if published:
            self._add_pools(recipe.size)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Return features float32 `[grid², C]` of an image uint8 `[1, size, size, 3]`, RGB order."""
        if not self._pools:
            features: Tensor = self.backbone(image)[0].float()
            return features
        stages = self.backbone.stage_maps(self.backbone.normalise(image))
        pools = [self.get_buffer(name) for name in self._pools]
        maps = [pool @ stage[0].float() @ pool.T for pool, stage in zip(pools, stages, strict=True)]
        return torch.cat(maps).flatten(1).T  # [grid², C]

    @torch.no_grad()
    def _add_pools(self, size: int) -> None:
        stages = self.backbone.stage_maps(torch.zeros(1, 3, size, size))
        for number, stage in enumerate(stages):
            self._pools.append(f"pool{number}")
            self.register_buffer(self._pools[-1], published_pool(stage.shape[-1], self.grid), persistent=False)


def published_pool(side: int, grid: int) -> Tensor:
    """Return one axis of the published averages of a stage as a matrix, float32 `[grid, side]`.

    Args:
        side: Side of the maps of the stage.
        grid: Side of the grid of cells.
    """
    return F.adaptive_avg_pool1d(F.avg_pool1d(torch.eye(side), 3, 1), grid).T.contiguous()
