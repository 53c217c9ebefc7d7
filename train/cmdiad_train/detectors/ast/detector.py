"""The AST detector: features, flow, student and map as one module, which becomes the graph.

Where the student cannot follow the flow, the features differ from those of good parts (AST, arXiv 2210.07829).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.detectors.ast.losses import distance
from cmdiad_train.detectors.ast.networks.cells import CELL_PIXELS, INPUTS, Cells, Standardisation
from cmdiad_train.detectors.ast.networks.flow import Flow
from cmdiad_train.detectors.ast.networks.student import Student
from cmdiad_train.detectors.family import PrecisionParts, TrainedDetector
from cmdiad_train.recipe import Recipe, ast_part


class AsymmetricStudentTeacher(TrainedDetector):
    """The network inputs of one sample to image score and anomaly map.

    A faithful recipe weighs the cells by the part's share in them, once for the mean score and twice for map and
    maximum, and divides by the number of all cells, as published. Otherwise every cell counts: a mask made from the
    inspected sample would hide a piece that is missing.

    Args:
        recipe: Recipe of the detector.
        cells: Features of the cells.
        standardise: Standardisation of the features.
        flow: Teacher.
        student: Student.
        kept: Inspected pixels of the view, bool `[1, size, size]`; None without an inspection mask.

    Attributes:
        input_names: Names of the inputs, in the order of `forward`.
    """

    upsampling: Tensor
    kept: Tensor | None
    inspected: Tensor

    def __init__(
        self,
        recipe: Recipe,
        cells: Cells,
        standardise: Standardisation,
        flow: Flow,
        student: Student,
        kept: Tensor | None = None,
    ) -> None:
        super().__init__()
        part = ast_part(recipe)
        self.input_names = [INPUTS[modality] for modality in recipe.mains]
        self._faithful, self._reduction = part.mode == "faithful", part.reduction
        self.cells, self.standardise, self.flow, self.student = cells, standardise, flow, student
        self.register_buffer("upsampling", _upsampling(recipe), persistent=False)
        self.register_buffer("kept", None if kept is None else kept[0].float())
        self.register_buffer("inspected", _inspected_share(kept, part.cell, cells.grid))
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image score float32 `[1]` and the map float32 `[size, size]` of one sample."""
        features, weights = self.cells(dict(zip(self.input_names, inputs, strict=True)))
        return self.scored(self.distances(features), weights)

    def distances(self, features: Tensor) -> Tensor:
        """Return the distance between flow and student in each cell, float32 `[B, grid, grid]`."""
        standard = self.standardise(features)
        z, _ = self.flow(standard)
        return distance(z, self.student(standard.to(self.student.leave.weight.dtype)))

    def scored(self, distances: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return image score `[1]` and map `[size, size]`.

        Args:
            distances: Distance in each cell, `[1, grid, grid]`.
            weights: Weights of the cells, `[1, 1, grid, grid]`.
        """
        weights = weights[:, 0] * self.inspected
        counted = weights * distances
        coarse = (weights * counted if self._faithful else counted)[0]
        anomaly_map = self.upsampling @ coarse @ self.upsampling.T
        if self.kept is not None:
            anomaly_map = anomaly_map * self.kept
        if self._reduction == "max":
            return anomaly_map.amax((0, 1)).reshape(1), anomaly_map
        if self._faithful:
            return counted.mean().reshape(1), anomaly_map
        return (counted.sum() / weights.sum()).reshape(1), anomaly_map

    def precision_parts(self) -> PrecisionParts:
        """Return image network and student. The flow stays fp32: its four scales multiply up to 2000."""
        features = ("cells.extractor.backbone.model",) if self.cells.extractor is not None else ()
        networks = (*features, "student")
        return PrecisionParts(
            networks=networks,
            always_single=("flow",),
            convolutions=networks,
            steps=(("student", ("student",)), *([("features", ("cells.extractor",))] if features else [])),
        )


def _upsampling(recipe: Recipe) -> Tensor:
    """Return one axis of bicubic upsampling from the grid to the view, float32 `[size, grid]`.

    The resize is linear and separable, so it is U·d·Uᵀ: no operator whose meaning differs between engines. A faithful
    map has the published 8 pixels per cell, each of which fills a square of the view.
    """
    part, grid = ast_part(recipe), recipe.size // ast_part(recipe).cell
    side = CELL_PIXELS * grid if part.mode == "faithful" else recipe.size
    unit = torch.eye(grid, dtype=torch.float64)[None, None]
    matrix = F.interpolate(unit, size=(side, grid), mode="bicubic", align_corners=False)[0, 0]
    return matrix.repeat_interleave(recipe.size // side, dim=0).float()


def _inspected_share(kept: Tensor | None, cell: int, grid: int) -> Tensor:
    """Return the share of inspected pixels in each cell, float32 `[grid, grid]`."""
    if kept is None:
        return torch.ones(grid, grid)
    return F.avg_pool2d(kept[:1, None].float(), cell)[0, 0]
