"""Features of image and cloud at the same cells of one view, from two frozen extractors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from cmdiad_train.detectors.cell_maps import marked_cells
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.recipe import Recipe, cfm_part


class CellFeatures(NamedTuple):
    """Features of one sample, cell by cell.

    Attributes:
        xyz: Features of the cloud, float32 `[cells, C]`.
        rgb: Features of the image, float32 `[cells, C]`.
    """

    xyz: Tensor
    rgb: Tensor


class Extractors(nn.Module):
    """The frozen extractors of both modalities. The module stays in eval mode.

    Args:
        recipe: Recipe that names the backbones and their weights.

    Raises:
        RunError: A backbone is unknown, or its weights are missing or do not fit.

    Attributes:
        grid: Side of the square grid of cells, the same for both modalities.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        part = cfm_part(recipe)
        self.xyz = TimmBackbone(part.normals, size=recipe.size, seed=recipe.seed)
        self.rgb = TimmBackbone(part.rgb, size=recipe.size, seed=recipe.seed)
        self.grid: int = self.rgb.grid
        self.eval().requires_grad_(False)

    def forward(self, surface: Tensor, image: Tensor) -> CellFeatures:
        """Return the features of all cells, `[grid², C]`.

        Args:
            surface: Image of surface normals, float32 `[1, size, size, 3]`, 0-255.
            image: Image uint8 `[1, size, size, 3]`, RGB.
        """
        return CellFeatures(self.xyz(surface)[0].float(), self.rgb(image)[0].float())

    def cells_with_points(self, surface: Tensor) -> Tensor:
        """Return the cells in which the cloud has a point of the part, bool `[grid²]`.

        The image of surface normals is 0 where there is no such point, and positive in some channel elsewhere.
        """
        return marked_cells(surface.float().amax(3)[:, None], self.grid)
