"""What a detector is made of: every published variant, and our default, as values of one dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.sample import Modality

Mode = Literal["default", "faithful"]
Hallucination = Literal["none", "f2f"]
Normalisation = Literal["frozen", "batch", "eval"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class RgbExtractor:
    """An RGB extractor: any timm backbone.

    Attributes:
        backbone: timm model name.
        stages: CNN stages to concatenate, stage k having stride 4·2^k; empty for ViT tokens.
        grid: side of the grid that CNN stages are brought to; None takes the finest stage's.
        weights: "timm" (timm's own download), "seeded" (random, reproducible) or a safetensors file.
        mean: per-channel mean subtracted after scaling to 0-1, RGB order; None takes the weights' own.
        std: per-channel divisor, RGB order; None takes the weights' own.
    """

    backbone: str = "resnet10t"
    stages: tuple[int, ...] = (0, 1)
    grid: int | None = 28
    weights: str = "seeded"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class XyzExtractor:
    """A point extractor: Point-MAE's encoder (REFERENCE §6).

    Attributes:
        groups: number of groups (centres) per cloud.
        group_size: points per group.
        width: transformer width; the token encoder's widths scale with it (384 gives the published ones).
        depth: number of transformer blocks.
        heads: attention heads.
        taps: blocks (0-based) whose normalised outputs are concatenated.
        normalisation: BatchNorm statistics: "frozen" (calibrated on the training clouds), "batch"
            (of the current cloud, as published) or "eval" (as stored in the weights).
        weights: "seeded" (random, reproducible), a Point-MAE checkpoint or a safetensors file.
        grid: side of the square grid that group features are pooled to.
    """

    groups: int = 1024
    group_size: int = 32
    width: int = 96
    depth: int = 2
    heads: int = 3
    taps: tuple[int, ...] = (0, 1)
    normalisation: Normalisation = "frozen"
    weights: str = "seeded"
    grid: int = 28


PUBLISHED_RGB = RgbExtractor("vit_base_patch8_224.dino", (), None, "timm", IMAGENET_MEAN, IMAGENET_STD)
PUBLISHED_XYZ = XyzExtractor(1024, 128, 384, 12, 6, (3, 11), "batch", "seeded", 56)


@dataclass(frozen=True)
class Distillation:
    """How the distillation network is trained (REFERENCE §9).

    Attributes:
        epochs: passes over the training tokens.
        batch: samples per step.
        learning_rate: Adam's, after the warm-up.
        warmup: epochs of linear warm-up; the default mode then decays by a half cosine.
        expansion: hidden width as a multiple of the input width.
        output: "linear", or "gelu" as published (which cannot go below -0.17).
    """

    epochs: int = 12
    batch: int = 4
    learning_rate: float = 1e-3
    warmup: int = 2
    expansion: float = 2.5
    output: Literal["linear", "gelu"] = "linear"


@dataclass(frozen=True)
class Recipe:
    """One detector: main modality, extractors, hallucination, bank, fusion, threshold.

    Attributes:
        mode: "default" (per-bank statistics, float blur, deterministic) or "faithful" (as published).
        modality: the main modality, the only one needed at inference.
        hallucination: "none", or "f2f" (feature to feature).
        rgb: RGB extractor.
        xyz: point extractor.
        distillation: training of the distillation network.
        size: working size in pixels, width and height.
        rgb_mask: "none", or "cloud" (background blacked out with the help of the cloud, the paper's
            protocol; inspection then needs the cloud too).
        foreground: remove the support plane and stray clusters from clouds before use.
        coreset: fraction of the training rows kept in each memory bank.
        coreset_eps: distortion bound of the sparse random projection before the coreset search.
        fusion: "standardised" (weights 1/σ of held-out good samples) or "ocsvm" (as published).
        false_reject_rate: share of good parts that may be rejected; sets the threshold.
        seed: of everything random.
    """

    mode: Mode = "default"
    modality: Modality = "rgb"
    hallucination: Hallucination = "none"
    rgb: RgbExtractor = field(default_factory=RgbExtractor)
    xyz: XyzExtractor = field(default_factory=XyzExtractor)
    distillation: Distillation = field(default_factory=Distillation)
    size: int = 224
    rgb_mask: Literal["none", "cloud"] = "none"
    foreground: bool = True
    coreset: float = 0.1
    coreset_eps: float = 0.9
    fusion: Literal["standardised", "ocsvm"] = "standardised"
    false_reject_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _require(0 < self.coreset <= 1, "coreset", self.coreset, "a fraction in (0, 1]")
        _require(0 < self.coreset_eps < 1, "coreset_eps", self.coreset_eps, "a number in (0, 1)")
        _require(0 < self.false_reject_rate < 1, "false_reject_rate", self.false_reject_rate, "in (0, 1)")
        _require(self.size >= 32, "size", self.size, "at least 32 pixels")
        _require(
            self.xyz.width % self.xyz.heads == 0,
            "xyz.heads",
            self.xyz.heads,
            f"a divisor of the width {self.xyz.width}",
        )
        _require(
            bool(self.xyz.taps) and max(self.xyz.taps) < self.xyz.depth,
            "xyz.taps",
            self.xyz.taps,
            f"block indices below the depth {self.xyz.depth}",
        )
        _require(
            not (self.rgb_mask == "cloud" and not self.foreground),
            "rgb_mask",
            self.rgb_mask,
            "foreground removal to make the mask from",
        )

    @property
    def other(self) -> Modality:
        """The modality that is hallucinated, or absent."""
        return "xyz" if self.modality == "rgb" else "rgb"

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote; raises RunError for unknown or impossible fields."""
        try:
            fields = dict(value)
            fields["rgb"] = RgbExtractor(**_tuples(fields["rgb"]))
            fields["xyz"] = XyzExtractor(**_tuples(fields["xyz"]))
            fields["distillation"] = Distillation(**fields["distillation"])
            return Recipe(**fields)
        except (KeyError, TypeError) as error:
            raise RunError(
                "recipe", found=str(error), expected="the fields of Recipe", action="train the run again"
            ) from error


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise RunError(f"recipe {name}", found=str(found), expected=expected, action="change the option")
