"""Settings of feature extractors: image networks, point transformers and images of surfaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cmdiad_runtime.preprocess.settings import LEAST_GROUPS, MOST_CELLS, MOST_GROUP_SIZE, MOST_GROUPS, MOST_PIXELS
from cmdiad_runtime.support.records import is_number
from cmdiad_train.recipe.rules import (
    require,
    require_kind,
    require_one,
    require_text,
    require_whole,
    require_wholes,
    tuples,
)

Normalisation = Literal["frozen", "batch", "eval"]
PointNetwork = Literal["point_mae", "point_bert"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MOST_UNITS = 1 << 16  # blocks, channels and heads of a transformer, stages of a CNN
_MOST_STATISTIC = 1e6  # of a colour channel, whose values are in [0, 1]


@dataclass(frozen=True)
class RgbExtractor:
    """An image extractor: any timm backbone.

    Attributes:
        backbone: Name of a timm model.
        stages: CNN stages to concatenate; stage k has stride 4·2^k. Empty for a ViT.
        grid: Side of the grid to which CNN stages are resized; None takes the grid of the finest stage.
        weights: "timm" (download by timm), "seeded" (random, reproducible), "shipped-rgb" or "shipped-normals"
            (see `cmdiad_train.extractors.shipped`), or a safetensors file.
        mean: Mean of each channel that is subtracted after scaling to 0-1, RGB order; None takes that of the weights.
        std: Divisor of each channel, RGB order; None takes that of the weights.
        layers: Blocks of a ViT whose outputs are concatenated, counted from 1 and not normalised. Empty for the
            last block after the final normalisation.
    """

    backbone: str = "resnet10t"
    stages: tuple[int, ...] = (0, 1)
    grid: int | None = 40
    weights: str = "seeded"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_text("backbone", self.backbone, "the name of a timm model")
        require_text("weights", self.weights, "timm, seeded, a shipped name or a file")
        require_wholes("stages", self.stages, 0, _MOST_UNITS)
        require(len({*self.stages}) == len(self.stages), "stages", self.stages, "each stage once")
        require_wholes("layers", self.layers, 1, _MOST_UNITS)
        require(len({*self.layers}) == len(self.layers), "layers", self.layers, "each layer once")
        require(not (self.layers and self.stages), "layers", self.layers, "none with stages: only a ViT has layers")
        if self.grid is not None:
            require_whole("grid", self.grid, 1, MOST_PIXELS)
        if self.mean is not None:
            numbers = _is_rgb(self.mean, -_MOST_STATISTIC)
            require(numbers, "mean", self.mean, "three numbers, one per colour channel")
        if self.std is not None:
            positive = _is_rgb(self.std, 0) and min(self.std) > 0
            require(positive, "std", self.std, "three positive numbers, one per colour channel")


def _is_rgb(values: object, low: float) -> bool:
    """Return True for a tuple of three numbers from `low` up."""
    return isinstance(values, tuple) and len(values) == 3 and all(is_number(v, low, _MOST_STATISTIC) for v in values)


@dataclass(frozen=True)
class XyzExtractor:
    """A point extractor: the encoder of Point-MAE or Point-BERT (method §6).

    Attributes:
        network: Architecture, "point_mae" or "point_bert".
        groups: Number of groups (centres) per cloud.
        group_size: Number of points per group.
        width: Width of the transformer. The widths of the token encoder scale with this width; 384 gives the
            published ones.
        depth: Number of transformer blocks.
        heads: Number of attention heads.
        taps: Blocks (0-based) whose normalised outputs are concatenated.
        normalisation: BatchNorm statistics: "frozen" (calibrated on the training clouds), "batch" (of the current
            cloud, as published) or "eval" (as stored in the weights).
        weights: "seeded" (random, reproducible), an official checkpoint or a safetensors file.
        grid: Side of the square grid to which group features are pooled.
    """

    network: PointNetwork = "point_mae"
    groups: int = 1024
    group_size: int = 32
    width: int = 96
    depth: int = 2
    heads: int = 3
    taps: tuple[int, ...] = (0, 1)
    normalisation: Normalisation = "frozen"
    weights: str = "seeded"
    grid: int = 28

    def __post_init__(self) -> None:
        require_one("xyz.network", self.network, ("point_mae", "point_bert"))
        require_one("xyz.normalisation", self.normalisation, ("frozen", "batch", "eval"))
        require_text("xyz.weights", self.weights, "seeded or a file")
        require_whole("xyz.groups", self.groups, LEAST_GROUPS, MOST_GROUPS)
        require_whole("xyz.group_size", self.group_size, 1, MOST_GROUP_SIZE)
        require_whole("xyz.grid", self.grid, 1, MOST_CELLS)
        for name in ("width", "depth", "heads"):
            require_whole(f"xyz.{name}", getattr(self, name), 1, _MOST_UNITS)
        require(self.width % self.heads == 0, "xyz.heads", self.heads, f"a divisor of the width {self.width}")
        require_wholes("xyz.taps", self.taps, 0, self.depth - 1)
        require(bool(self.taps), "xyz.taps", self.taps, f"block indices below the depth {self.depth}")


@dataclass(frozen=True)
class SurfaceExtractor:
    """An extractor that sees a cloud as an image of the surface, through a timm backbone.

    Attributes:
        image: Kind of image: "normals" (one component of the surface normal per colour) or "depth".
        backbone: Network that extracts features of this image.
    """

    image: Literal["normals", "depth"] = "normals"
    backbone: RgbExtractor = field(default_factory=RgbExtractor)

    def __post_init__(self) -> None:
        require_one("xyz.image", self.image, ("normals", "depth"))
        require_kind("xyz.backbone", self.backbone, [RgbExtractor])


SMALL_RGB = RgbExtractor("resnet10t", (1, 2), 40, "shipped-rgb")
SMALL_NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (1, 2), 40, "shipped-normals"))
PUBLISHED_RGB = RgbExtractor("vit_base_patch8_224.dino", (), None, "timm", IMAGENET_MEAN, IMAGENET_STD)
PUBLISHED_XYZ = XyzExtractor("point_mae", 1024, 128, 384, 12, 6, (3, 11), "batch", "seeded", 56)


def without_empty_layers(values: dict[str, Any]) -> dict[str, Any]:
    """Return JSON values without empty `layers` of image extractors, so that earlier versions can read the recipe."""
    return {
        name: without_empty_layers(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name != "layers" or value
    }


def rgb_from_json(value: object) -> RgbExtractor:
    """Return the image extractor that `asdict` wrote."""
    return RgbExtractor(**tuples(RgbExtractor, value))


def xyz_from_json(value: object) -> XyzExtractor | SurfaceExtractor:
    """Return the extractor of clouds that `asdict` wrote."""
    if isinstance(value, dict) and "image" in value:
        fields = tuples(SurfaceExtractor, value)
        backbone = {"backbone": rgb_from_json(fields["backbone"])} if "backbone" in fields else {}
        return SurfaceExtractor(**{**fields, **backbone})
    return XyzExtractor(**tuples(XyzExtractor, value))
