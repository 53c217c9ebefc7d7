"""A trivial detector family: one Gaussian per pixel of the normal images. Proves the family seam, detects little."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.support.command_line import collect_options, option_group
from cmdiad_runtime.support.records import fields_from_json, require_integer
from cmdiad_train.detectors.family import Family, FitContext, Fitted, PrecisionParts, TrainedDetector, as_tensors
from cmdiad_train.recipe import Recipe, common_options
from cmdiad_train.runs.mask import load_kept
from cmdiad_train.runs.tensors import load_tensors, save_tensors

FILE = "gaussian.safetensors"
LEAST_DEVIATION = 0.02


@dataclass(frozen=True)
class PixelGaussianRecipe:
    """Part of a recipe.

    Attributes:
        cells: Side of the grid to which images are averaged.
    """

    cells: int = 28

    family: ClassVar[str] = "pixel-gaussian"

    def __post_init__(self) -> None:
        require_integer(self, "cells", 2, 1024)

    def check(self, recipe: Recipe) -> None:
        """Accept every recipe."""

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> PixelGaussianRecipe:
        """Return the part that `to_json` wrote; raises RecordError."""
        return cls(**fields_from_json(cls, value))


class PixelGaussian(TrainedDetector):
    """Squared deviation from the mean of each cell in units of the cell's variance, averaged over colours.

    Args:
        mean: Mean of each cell, float32 `[3, cells, cells]`.
        deviation: Standard deviation of each cell, same shape.
        input_name: Name of the image input, "rgb" or "surface".
        size: Side of the map.
        kept: Inspected pixels, bool `[1, size, size]`; None without an inspection mask.
    """

    mean: Tensor
    deviation: Tensor

    kept: Tensor | None

    def __init__(self, mean: Tensor, deviation: Tensor, input_name: str, size: int, kept: Tensor | None = None) -> None:
        super().__init__()
        self.input_names, self.size = [input_name], size
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation.clamp(min=LEAST_DEVIATION))
        self.register_buffer("kept", None if kept is None else kept[0].float())
        self.smooth = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.smooth.weight.data.fill_(1 / 9)
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score `[1]` and the map `[size, size]`."""
        cells = cell_means(inputs[0], self.mean.shape[-1])
        squared = ((cells - self.mean) / self.deviation).square().mean(1, keepdim=True).sqrt()
        smooth = self.smooth(squared.to(self.smooth.weight.dtype)).float()
        anomaly_map = F.interpolate(smooth, size=(self.size, self.size), mode="bilinear")[0, 0]
        if self.kept is not None:
            anomaly_map = anomaly_map * self.kept
        return anomaly_map.amax((0, 1)).reshape(1), anomaly_map

    def precision_parts(self) -> PrecisionParts:
        """Return the smoothing, which may compute in fp16."""
        return PrecisionParts(networks=("smooth",), steps=(("smoothing", ("smooth",)),))


def cell_means(image: Tensor, cells: int) -> Tensor:
    """Return the mean colour of each cell, float32 `[1, 3, cells, cells]`, of an image `[1, size, size, 3]`."""
    return F.avg_pool2d(image.float().permute(0, 3, 1, 2) / 255, image.shape[1] // cells)


def recipe(options: Mapping[str, Any], categories: Callable[[], Sequence[str]]) -> Recipe:
    """Return the recipe of the options."""
    common = common_options(options)
    return Recipe(PixelGaussianRecipe(options["gaussian_cells"]), **{"size": 112, "view": "sensor", **common})


def preprocessing(recipe: Recipe, colour: Colour, modality: Sensors) -> Preprocessing:
    """Return the preprocessing of a modality: images of surface normals for clouds."""
    return Preprocessing(modality=modality, size=recipe.size, colour=colour, xyz_feed="normals", seed=recipe.seed)


def input_name(recipe: Recipe) -> str:
    """Return the name of the image input."""
    return {"rgb": "rgb", "xyz": "surface"}[recipe.modality]


def fit(context: FitContext) -> Fitted:
    """Fit one Gaussian per cell."""
    part = context.recipe.detector
    assert isinstance(part, PixelGaussianRecipe)
    images = []
    for i, files in enumerate(context.train):
        inputs = as_tensors(context.samples.prepared(files).inputs)
        images.append(cell_means(inputs[input_name(context.recipe)], part.cells)[0])
        context.reporter.step("average images", i + 1, len(context.train))
    stacked = torch.stack(images)
    save_tensors(context.run / FILE, {"mean": stacked.mean(0), "deviation": stacked.std(0)})
    detector = load(context.run, context.recipe)
    scores, peaks = context.score_held_out(detector)
    return Fitted(detector, scores, peaks, {context.recipe.modality: {"extractor": "one Gaussian per pixel"}})


def load(run: Path, recipe: Recipe) -> PixelGaussian:
    """Load the detector of a finished run."""
    tensors = load_tensors(run / FILE)
    return PixelGaussian(tensors["mean"], tensors["deviation"], input_name(recipe), recipe.size, load_kept(run, recipe))


FAMILY = Family(
    name=PixelGaussianRecipe.family,
    part=PixelGaussianRecipe,
    recipe=recipe,
    preprocessing=preprocessing,
    fit=fit,
    load=load,
    options=collect_options(
        option_group(
            "Pixel Gaussian",
            click.option("--gaussian-cells", type=click.IntRange(2), default=28, help="Side of the grid of cells."),
        )
    ),
)
