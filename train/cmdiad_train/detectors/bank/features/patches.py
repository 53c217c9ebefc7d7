"""Patch features of extractors and distillation networks, without repeated rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.names import Modality
from cmdiad_train.detectors.bank.features.compared import Compared, Patches
from cmdiad_train.detectors.bank.features.hallucination import FeatureToInput, InputToFeature, Network
from cmdiad_train.detectors.bank.features.neighbourhood import (
    cell_places,
    neighbourhoods,
    neighbouring_cells,
    with_places,
)
from cmdiad_train.detectors.bank.features.projection import projection_layer
from cmdiad_train.detectors.cell_maps import marked_cells
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.extractors.generated_cloud import GeneratedCloud
from cmdiad_train.recipe import Recipe, Source, bank_part

Extractor = TimmBackbone | PointMae
POINT_INPUTS = ("centers", "groups", "weights", "cells")


def input_names(recipe: Recipe, source: Source) -> tuple[str, ...]:
    """Return the names of the inputs of an extractor, in order (see `Prepared.inputs`)."""
    if source != "xyz":
        return ("rgb",)
    return POINT_INPUTS if bank_part(recipe).points else ("surface",)


def shows_part_alone(recipe: Recipe, source: Source) -> bool:
    """Return True if the network input of a modality, or of the partner, is an image whose background is 0."""
    if source == "xyz":
        return bank_part(recipe).points is None
    return recipe.view != "sensor"


def image_name(recipe: Recipe, modality: Modality) -> str:
    """Return the name of the input that shows a modality as an image, which F2I generates and I2F takes."""
    if modality == "rgb":
        return "rgb"
    return "xyz" if bank_part(recipe).points else "surface"


class PatchFeatures(nn.Module):
    """Patch features of one modality.

    Args:
        extractor: Extractor of an image (TimmBackbone), or of `centers, groups, weights, cells` (PointMae).
        cut_out: True if the image shows the part alone, with a background of 0 in all channels. Cells without any
            pixel of the part then share one row of zeros, like the background of a cloud.
        basis: Orthonormal columns float32 `[C', C]` on which features are projected; None keeps all channels.
    """

    every_cell: Tensor
    unsearched: Tensor

    def __init__(self, extractor: Extractor, *, cut_out: bool = False, basis: Tensor | None = None) -> None:
        super().__init__()
        self.extractor = extractor
        self.projection = nn.Identity() if basis is None else projection_layer(basis)
        self.cut_out = cut_out
        self.grid: int = extractor.grid
        self.register_buffer("every_cell", torch.arange(extractor.grid**2), persistent=False)
        # The row of a cell that is not searched: no row has this index, so an engine that checks indices fails.
        self.register_buffer("unsearched", torch.full((extractor.grid**2,), 2**31 - 1), persistent=False)

    def tokens_of_each(self, images: Sequence[Tensor]) -> list[Tensor | None]:
        """Return features `[grid², C']` of several images `[1, size, size, 3]`, by one run of the extractor.

        The result is None for the inputs of a point extractor, whose samples have no common shape.
        """
        if isinstance(self.extractor, TimmBackbone):
            return list(self.extractor(torch.cat(list(images))).unbind())
        return [None] * len(images)

    def forward(self, *inputs: Tensor, searched: Tensor | None = None, tokens: Tensor | None = None) -> Patches:
        """Return rows and cells of one sample.

        For a cloud the rows are `weights @ group features`: interpolation, zero fill and pooling as one
        product (method §19.2); row 0 is the background.

        Args:
            inputs: Network inputs of the modality, see `input_names`.
            searched: Cells int64 `[R]` of an image of the part alone that get a row, in order; None takes all.
            tokens: Features of the image from `tokens_of_each`; None to run the extractor.
        """
        if isinstance(self.extractor, TimmBackbone):
            rows = self.extractor(inputs[0])[0] if tokens is None else tokens
            return self._cut_out(rows, inputs[0], searched) if self.cut_out else (self.project(rows), self.every_cell)
        centers, groups, weights, cells = inputs
        return weights @ self.project(self.extractor(centers, groups)[0]), cells.long()

    def project(self, rows: Tensor) -> Tensor:
        """Return rows `[R, C]` float32 of rows with all channels of the extractor `[R, C']`."""
        return project(self.projection, rows)

    def _cut_out(self, rows: Tensor, image: Tensor, searched: Tensor | None) -> Patches:
        """Return projected rows `[R, C]` with 0 for background cells, all of which point to the first of them.

        Args:
            rows: Features `[grid², C']` of all cells.
            image: Network input `[1, size, size, 3]`.
            searched: See `forward`.
        """
        on_part = marked_cells(image.float().amax(3)[:, None], self.grid)  # cast first: TensorRT takes uint8 only here
        background = (~on_part).float()[None].argmax(1)  # [1]
        cells = torch.where(on_part, self.every_cell, background)
        if searched is None:
            return self.project(rows) * on_part[:, None].float(), cells
        place = self.unsearched.scatter(0, searched, torch.arange(searched.shape[0], device=searched.device))
        return self.project(rows[searched]) * on_part[searched][:, None].float(), place[cells]

    def image(self, shown: Tensor) -> Tensor:
        """Return a network input as an image float32 `[3, size, size]`: normalised colours, or metres.

        Args:
            shown: Input named by `image_name`, `[1, size, size, 3]`.
        """
        if isinstance(self.extractor, TimmBackbone):
            return self.extractor.normalise(shown)[0]
        return shown[0].permute(2, 0, 1)


class Hallucinated(nn.Module):
    """Patch features of the missing modality, from features or the image of the main modality (method §8).

    Args:
        network: Network F2F, F2I or I2F.
        main_grid: Side of the grid of the main features.
        grid: Side of the grid of hallucinated features.
        extractor: Extractor of the other modality for the input that F2I generates.
        basis: Basis of the features of that extractor, see `PatchFeatures`.
        size: Side of the input that F2I generates for a point extractor.

    Attributes:
        compared: Features for the scorers; by default main features for one bank, hallucinated ones for another.
    """

    every_cell: Tensor
    repeat: Tensor
    around: Tensor | None
    places: Tensor | None

    def __init__(
        self,
        network: Network,
        *,
        main_grid: int,
        grid: int,
        extractor: Extractor | None = None,
        basis: Tensor | None = None,
        size: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.extractor, self.grid = network, extractor, grid
        self.compared = Compared()
        self.projection = nn.Identity() if basis is None else projection_layer(basis)
        self.cloud = None
        if isinstance(extractor, PointMae):
            spec = extractor.spec
            self.cloud = GeneratedCloud(groups=spec.groups, group_size=spec.group_size, grid=grid, size=size)
        fed = network.grid if isinstance(network, FeatureToInput) else grid
        repeat = repeated_cells(main_grid, fed) if fed % main_grid == 0 else torch.arange(main_grid**2)
        self.register_buffer("every_cell", torch.arange(grid**2), persistent=False)
        self.register_buffer("repeat", repeat, persistent=False)
        context = network.context if isinstance(network, FeatureToFeature) else 1
        around = neighbouring_cells(main_grid, context) if context > 1 else None
        self.register_buffer("around", around, persistent=False)
        located = isinstance(network, FeatureToFeature) and network.coordinates
        self.register_buffer("places", cell_places(main_grid) if located else None, persistent=False)

    def forward(self, rows: Tensor, cells: Tensor, image: Tensor | None, searched: Tensor | None = None) -> Patches:
        """Return hallucinated rows and cells.

        Args:
            rows: Main rows `[R, C]`.
            cells: Main cells `[main_grid²]`.
            image: Image `[3, size, size]` for I2F, else None.
            searched: Cell int64 `[R]` of each row, for F2F with a context or coordinates; None if row i is of cell i.
        """
        if isinstance(self.network, FeatureToFeature):
            fed = rows
            if self.around is not None:
                fed = neighbourhoods(rows, cells, _of_cells(self.around, searched))
            if self.places is not None:
                fed = with_places(fed, _of_cells(self.places, searched))
            return self.network(fed).float(), cells[self.repeat]
        if isinstance(self.network, InputToFeature):
            assert image is not None
            dtype = next(self.network.parameters()).dtype
            features = self.network(image[None].to(dtype))[0].float()
            return regrid(features, round(len(features) ** 0.5), self.grid), self.every_cell
        dtype = self.network.conv1.weight.dtype
        generated = self.network(rows[cells[self.repeat]][None].to(dtype))  # [1, 3, size, size]
        return self._extract(generated.float()), self.every_cell

    def patches(self, main: Patches, image: Tensor | None, searched: Tensor | None = None) -> list[Patches]:
        """Return what each scorer compares, see `Compared`; arguments as of `forward`."""
        return self.compared(main, self(*main, image, searched), self.network.target_scale)

    def _extract(self, generated: Tensor) -> Tensor:
        if isinstance(self.extractor, TimmBackbone):
            return project(self.projection, self.extractor.tokens(generated)[0])
        assert self.extractor is not None and self.cloud is not None
        centers, groups, weights = self.cloud(generated[0])
        return weights @ project(self.projection, self.extractor(centers, groups)[0])


def _of_cells(values: Tensor, chosen: Tensor | None) -> Tensor:
    """Return the values `[R, ...]` of chosen cells int64 `[R]`, or those of every cell."""
    return values if chosen is None else values[chosen]


def project(projection: nn.Module, rows: Tensor) -> Tensor:
    """Return rows float32 after a linear layer in the precision of that layer, or unchanged without a layer."""
    if isinstance(projection, nn.Linear):
        rows = projection(rows.to(projection.weight.dtype))
    return rows.float()


def alone(cells: Tensor) -> Tensor:
    """Return True for each cell `[grid²]` that shares its row with no other cell, as background cells do."""
    return cells.bincount()[cells] == 1


def hallucination_grid(recipe: Recipe, main_grid: int, other_grid: int) -> int:
    """Return the side of the grid of hallucinated features.

    F2F works row by row: on the main grid, or the finer of both as published (method §8). F2I ends in the other
    modality's extractor and has its grid. I2F's network has a quarter of the image's side; as published it stays
    so, by default it is averaged to the other modality's grid where that divides it.
    """
    if bank_part(recipe).hallucination == "f2f":
        return max(main_grid, other_grid) if bank_part(recipe).mode == "faithful" else main_grid
    if bank_part(recipe).hallucination == "f2i":
        return other_grid
    quarter = recipe.size // 4
    return other_grid if bank_part(recipe).mode == "default" and quarter % other_grid == 0 else quarter


def repeated_cells(grid: int, finer: int) -> Tensor:
    """Return the cell of a grid that each cell of a finer grid repeats, int64 `[finer²]`."""
    axis = torch.arange(finer) * grid // finer
    return (axis[:, None] * grid + axis[None]).reshape(-1)


def regrid(features: Tensor, grid: int, target: int) -> Tensor:
    """Return features `[grid², C]` on a grid of another size, `[target², C]`, by adaptive average pooling.

    Towards a whole multiple this is an exact repetition (method §5).
    """
    if grid == target:
        return features
    image = features.T.reshape(1, -1, grid, grid)
    return F.adaptive_avg_pool2d(image, target)[0].flatten(1).T
