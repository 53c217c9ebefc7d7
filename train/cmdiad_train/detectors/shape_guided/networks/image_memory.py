"""The memory of image features, of which the patches of the cloud choose the rows (Shape-Guided, ICML 2023)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from cmdiad_train.detectors.cell_maps import marked_cells
from cmdiad_train.detectors.shape_guided.networks.cell_lists import near_cells
from cmdiad_train.detectors.shape_guided.networks.memory import Memory


class ImageRows(NamedTuple):
    """Image features of good samples at the cells that their patches list.

    Attributes:
        rows: Features float32 `[R, C]`.
        listing: Patches that list the cell of each row, int32 `[R, widest]`: places in the memory of codes.
    """

    rows: Tensor
    listing: Tensor


class ImageMemory(nn.Module):
    """Distances between image features and what similar good patches rebuild of them.

    A row may be chosen if a patch lists it that is among the nearest good patches of some inspected patch. The
    inspected cells are those that the inspected patches list. All other cells have the value 0.

    Args:
        stored: Rows of good samples.
        grid: Side of the square grid of cells.
        neighbours: Nearest rows that rebuild a vector.
        atoms: Largest number of them in a sum.
        published: True for the published rule of the pursuit and the published lists of cells.
    """

    near: Tensor
    listing: Tensor

    def __init__(self, stored: ImageRows, grid: int, *, neighbours: int, atoms: int, published: bool) -> None:
        super().__init__()
        self.grid = grid
        self.memory = Memory(stored.rows, neighbours=neighbours, atoms=atoms, normalised=not published)
        self.register_buffer("listing", stored.listing)
        self.register_buffer("near", near_cells(grid, published=published), persistent=False)

    def forward(self, features: Tensor, cover: Tensor, used: Tensor) -> Tensor:
        """Return the distance of each inspected cell, float32 `[grid, grid]`.

        Args:
            features: Image features float32 `[grid², C]`.
            cover: Places of each pixel in the patches, int32 `[size, size, K]`.
            used: Positive for the good patches among the nearest of the inspected ones, float32 `[patches]`.
        """
        allowed = self.allowed(used)
        return self.distances(features, cover, self.memory.keys(features, allowed), allowed)

    def allowed(self, used: Tensor) -> Tensor:
        """Return 1 for the rows that some used patch lists, else 0, float32 `[R]`."""
        return used[self.listing.long()].amax(1)

    def distances(self, features: Tensor, cover: Tensor, keys: Tensor, allowed: Tensor) -> Tensor:
        """Return the distances for given keys float32 `[grid², R]` of the allowed rows; see `forward`."""
        rebuilt = self.memory.rebuilt(features, self.memory.nearest(keys), allowed)
        # As published, 1e-12 is added to every difference.
        distances = (features - rebuilt + 1e-12).square().sum(1).sqrt() * self.inspected(cover)
        return distances.reshape(self.grid, self.grid)

    def inspected(self, cover: Tensor) -> Tensor:
        """Return 1 for the cells that the patches of a cloud list, else 0, float32 `[grid²]`."""
        shown = marked_cells(cover[:, :, 0] > 0, self.grid).float()
        return (shown @ self.near > 0).float()
