"""The detector of crossmodal feature mapping: extractors, mappings, residuals and map as one module.

Written from the description of the method (Costanzino et al., CVPR 2024, arXiv 2312.04521); docs/cfm.md says what
differs.
"""

from __future__ import annotations

from torch import Tensor

from cmdiad_train.detectors.cell_maps import marked_cells, upsampling
from cmdiad_train.detectors.cfm.features import Extractors
from cmdiad_train.detectors.cfm.mappings import Mappings, residual
from cmdiad_train.detectors.family import PrecisionParts, TrainedDetector
from cmdiad_train.recipe import Recipe

INPUT_NAMES = ("surface", "rgb")
"""Network inputs: image of surface normals float32 and image uint8, `[1, size, size, 3]` each."""


class CrossmodalMapping(TrainedDetector):
    """The network inputs of one sample to image score and anomaly map.

    The value of a cell is the product of both residuals, 0 to 4: the cell is anomalous if neither modality follows
    from the other. Cells without a point of the cloud have the value 0, because nothing can be compared there.

    Args:
        recipe: Recipe of the detector.
        extractors: Frozen extractors of both modalities.
        mappings: Trained mappings between their features.
        kept: Inspected pixels of the view, bool `[1, size, size]`; None without an inspection mask.

    Attributes:
        input_names: Names of the inputs, in the order of `forward`.
    """

    upsample: Tensor
    kept_cells: Tensor | None
    kept_pixels: Tensor | None

    def __init__(self, recipe: Recipe, extractors: Extractors, mappings: Mappings, kept: Tensor | None = None) -> None:
        super().__init__()
        self.input_names = list(INPUT_NAMES)
        self.extractors, self.mappings, self.grid = extractors, mappings, extractors.grid
        self.register_buffer("upsample", upsampling(self.grid, recipe.size, blur=True), persistent=False)
        self.register_buffer("kept_cells", None if kept is None else marked_cells(kept[0], self.grid).float())
        self.register_buffer("kept_pixels", None if kept is None else kept[0].float())
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image score float32 `[1]`, the largest map value, and the map float32 `[size, size]`."""
        values = self.cell_values(*inputs).reshape(self.grid, self.grid)
        anomaly_map = self.upsample @ values @ self.upsample.T
        if self.kept_pixels is not None:
            anomaly_map = anomaly_map * self.kept_pixels
        return anomaly_map.amax((0, 1)).reshape(1), anomaly_map

    def cell_values(self, surface: Tensor, image: Tensor) -> Tensor:
        """Return the product of both residuals of each cell, float32 `[grid²]`."""
        measured = self.extractors(surface, image)
        pairs = zip(self.mappings(measured), measured, strict=True)
        of_xyz, of_rgb = (residual(predicted, features) for predicted, features in pairs)
        values: Tensor = of_xyz * of_rgb * self.extractors.cells_with_points(surface).float()
        return values if self.kept_cells is None else values * self.kept_cells

    def precision_parts(self) -> PrecisionParts:
        """Return the networks. Normalisation of images, residuals and map stay fp32."""
        backbones = ("extractors.xyz.model", "extractors.rgb.model")
        mappings = tuple(f"mappings.{name}.{part}" for name in ("to_xyz", "to_rgb") for part in ("norm", "mlp"))
        return PrecisionParts(
            networks=(*backbones, *mappings),
            convolutions=backbones,
            steps=(("mappings", ("mappings",)), ("extractors", ("extractors",))),
        )
