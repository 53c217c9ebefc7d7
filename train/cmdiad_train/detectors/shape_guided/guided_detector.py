"""The Shape-Guided detector of cloud and image: similar good patches of the cloud choose the memory of the image.

Written from a specification of the method (Chu et al., ICML 2023); docs/shape-guided.md says what differs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cmdiad_train.detectors.cell_maps import marked_cells, upsampling
from cmdiad_train.detectors.family import PrecisionParts, TrainedDetector
from cmdiad_train.detectors.shape_guided.detector import INPUT_NAMES, ShapeGuided, Shapes
from cmdiad_train.detectors.shape_guided.networks.image_features import ImageFeatures
from cmdiad_train.detectors.shape_guided.networks.image_memory import ImageMemory, ImageRows
from cmdiad_train.recipe import Recipe, shape_guided_part

GUIDED_INPUT_NAMES = (*INPUT_NAMES, "rgb")
"""Network inputs: those of the cloud, and the image uint8 `[1, size, size, 3]`, RGB order."""


class Alignment(NamedTuple):
    """Constants that bring the scores of the image to the scale of the cloud.

    Attributes:
        weight: Factor of the map of the image.
        bias: Number that is added to the map of the image.
        score_weight: Factor of the image score of the image; not used as published.
    """

    weight: float
    bias: float
    score_weight: float


class GuidedShapes(TrainedDetector):
    """The network inputs of one sample to image score and anomaly map.

    The map is the larger one of the aligned map of the image and the map of the cloud, blurred. By default the image
    score is the sum of both aligned scores; as published it is their product.

    Args:
        recipe: Recipe of the detector.
        shape: Detector of the cloud.
        features: Frozen image network.
        stored: Image features of good samples.
        alignment: Constants of the alignment; None as long as they are being computed.
        kept: Inspected pixels of the view, bool `[1, size, size]`; None without an inspection mask.

    Attributes:
        input_names: Names of the inputs, in the order of `forward`.
    """

    upsample: Tensor
    kept_cells: Tensor | None

    def __init__(
        self,
        recipe: Recipe,
        shape: ShapeGuided,
        features: ImageFeatures,
        stored: ImageRows,
        alignment: Alignment | None,
        kept: Tensor | None = None,
    ) -> None:
        super().__init__()
        part = shape_guided_part(recipe)
        self.input_names = list(GUIDED_INPUT_NAMES)
        self.published, self.alignment = part.mode == "faithful", alignment
        self.shape, self.features = shape, features
        self.images = ImageMemory(
            stored, features.grid, neighbours=part.image_neighbours, atoms=part.atoms, published=self.published
        )
        self.register_buffer("upsample", upsampling(features.grid, recipe.size, blur=False), persistent=False)
        cells = None if kept is None else marked_cells(kept[0], features.grid).float()
        self.register_buffer("kept_cells", None if cells is None else cells.reshape(features.grid, features.grid))
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image score float32 `[1]` and the map float32 `[size, size]` of one sample.

        Raises:
            RuntimeError: The detector has no alignment yet.
        """
        patches, cover, image = inputs
        codes = self.shape.codes(patches[0])
        shapes = self.shape.shapes(codes, self.shape.memory.keys(codes), patches[0], cover[0])
        cells = self.cell_values(self.images(self.features(image), cover[0], shapes.used))
        return self.fused(shapes, cells)

    def cell_values(self, distances: Tensor) -> Tensor:
        """Return distances of cells float32 `[grid, grid]`, 0 where a mask ignores the cell."""
        return distances if self.kept_cells is None else distances * self.kept_cells

    def image_map(self, cells: Tensor) -> Tensor:
        """Return the map of the image float32 `[size, size]` of values of cells, bilinear, not blurred."""
        upsampled = self.upsample @ cells @ self.upsample.T
        return upsampled if self.shape.kept is None else upsampled * self.shape.kept

    def fused(self, shapes: Shapes, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return image score and map of what cloud and image show; see `forward`.

        Args:
            shapes: Scores of the cloud.
            cells: Values of the cells of the image, float32 `[grid, grid]`.
        """
        if self.alignment is None:
            raise RuntimeError("a detector without alignment")
        weight, bias, score_weight = self.alignment
        of_image = self.image_map(cells)
        aligned = torch.relu(weight * of_image + bias)
        highest = cells.amax((0, 1)).reshape(1)
        if self.published:  # the background has the value of the bias too
            return shapes.score * highest, self.shape.blurred(torch.maximum(aligned, shapes.distances))
        combined = torch.maximum(aligned * (of_image > 0), shapes.distances)
        return shapes.score + score_weight * highest, self.shape.blurred(combined)

    def precision_parts(self) -> PrecisionParts:
        """Return the three networks. Searches, pursuits and maps stay fp32."""
        backbone = "features.backbone.model"
        return PrecisionParts(
            networks=("shape.encoder", "shape.decoder", backbone),
            convolutions=(backbone,),
            steps=(("encoder", ("shape.encoder",)), ("decoder", ("shape.decoder",)), ("image", ("features",))),
        )
