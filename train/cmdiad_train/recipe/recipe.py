"""What a detector is made of: every published variant, and our default, as values of one dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.sample import Modality, Sensors

Mode = Literal["default", "faithful"]
Hallucination = Literal["none", "f2f", "f2i", "i2f"]
Normalisation = Literal["frozen", "batch", "eval"]
PointNetwork = Literal["point_mae", "point_bert"]
Loss = Literal["l2", "cosine", "smooth_l1"]
View = Literal["auto", "sensor", "top", "part", "each"]
OLD_TOP_VIEW = "plan"
"""Name of the top view in recipes and options of earlier versions."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class RgbExtractor:
    """An image extractor: any timm backbone.

    Attributes:
        backbone: timm model name.
        stages: CNN stages to concatenate, stage k having stride 4·2^k; empty for ViT tokens.
        grid: side of the grid that CNN stages are brought to; None takes the finest stage's.
        weights: "timm" (timm's own download), "seeded" (random, reproducible), "shipped-rgb" or "shipped-normals"
            (see `cmdiad_train.extractors.shipped`), or a safetensors file.
        mean: per-channel mean subtracted after scaling to 0-1, RGB order; None takes the weights' own.
        std: per-channel divisor, RGB order; None takes the weights' own.
    """

    backbone: str = "resnet10t"
    stages: tuple[int, ...] = (0, 1)
    grid: int | None = 40
    weights: str = "seeded"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class XyzExtractor:
    """A point extractor: the encoder of Point-MAE or Point-BERT (REFERENCE §6).

    Attributes:
        network: "point_mae" or "point_bert".
        groups: number of groups (centres) per cloud.
        group_size: points per group.
        width: transformer width; the token encoder's widths scale with it (384 gives the published ones).
        depth: number of transformer blocks.
        heads: attention heads.
        taps: blocks (0-based) whose normalised outputs are concatenated.
        normalisation: BatchNorm statistics: "frozen" (calibrated on the training clouds), "batch"
            (of the current cloud, as published) or "eval" (as stored in the weights).
        weights: "seeded" (random, reproducible), an official checkpoint or a safetensors file.
        grid: side of the square grid that group features are pooled to.
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


@dataclass(frozen=True)
class SurfaceExtractor:
    """An extractor that looks at a cloud as an image of its surface, through a timm backbone.

    Attributes:
        image: "normals" (one component of the surface normal per colour) or "depth".
        backbone: what the image goes through.
    """

    image: Literal["normals", "depth"] = "normals"
    backbone: RgbExtractor = field(default_factory=RgbExtractor)


SMALL_RGB = RgbExtractor("resnet10t", (1, 2), 40, "shipped-rgb")
SMALL_NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (1, 2), 40, "shipped-normals"))
PUBLISHED_RGB = RgbExtractor("vit_base_patch8_224.dino", (), None, "timm", IMAGENET_MEAN, IMAGENET_STD)
PUBLISHED_XYZ = XyzExtractor("point_mae", 1024, 128, 384, 12, 6, (3, 11), "batch", "seeded", 56)


@dataclass(frozen=True)
class Distillation:
    """How the distillation network is trained (REFERENCE §9).

    Attributes:
        epochs: passes over the training tokens.
        batch: samples per step.
        learning_rate: Adam's, after the warm-up.
        warmup: epochs of linear warm-up; the default mode then decays by a half cosine.
        expansion: F2F's hidden width as a multiple of the input width.
        output: F2F's last activation: "linear", or "gelu" as published (which cannot go below -0.17).
        loss: "l2" (Euclidean distance), "cosine" or "smooth_l1", per row.
        validation: share of the training samples that choose the best epoch and are not trained on; 0, as
            published, takes the last epoch.
        patience: epochs without a better validation loss after which training stops; 0 never stops.
        categories: further categories of the data set whose good samples the network is trained on too (the
            published networks are joint over all classes).
    """

    epochs: int = 12
    batch: int = 4
    learning_rate: float = 1e-3
    warmup: int = 2
    expansion: float = 2.5
    output: Literal["linear", "gelu"] = "linear"
    loss: Loss = "l2"
    validation: float = 0.1
    patience: int = 5
    categories: tuple[str, ...] = ()


PUBLISHED_DISTILLATION = Distillation(100, 32, 5e-4, 10, 2.5, "gelu", "l2", 0.0, 0)
PUBLISHED_I2F_RATE = {"xyz": 3e-4, "rgb": 2e-4, "both": 3e-4}
"""Learning rates of I2F by main modality (REFERENCE §9); with both there is no such network."""
MOST_ROWS = 25_000
"""Of a bank that is kept whole; beyond that a coreset of as many rows is chosen."""


@dataclass(frozen=True)
class Recipe:
    """One detector: main modality, extractors, hallucination, bank, fusion, threshold.

    Attributes:
        mode: "default" (per-bank statistics, float blur, deterministic) or "faithful" (as published).
        modality: the main modality, the only one needed at inference; or "both", which hallucinates nothing.
        hallucination: "none", or what stands in for the missing modality: "f2f" (feature to feature), "f2i"
            (feature to input, then the other modality's own extractor) or "i2f" (input to feature).
        rgb: RGB extractor.
        xyz: extractor of clouds, as points or as an image of the surface.
        distillation: training of the distillation network.
        size: working size in pixels, width and height.
        view: "sensor" (the image as recorded), "top" (the part from above its support, turned upright, at one
            scale; found in the cloud, so rgb alone cannot have it), "part" (turned upright and cut out of the image;
            found in the image, so xyz alone cannot have it), "each" (for both modalities: the cloud from the top, the
            image cut out) or "auto" (the best of these in which every part is found; see `choose_view`). Older
            recipes call the top view "plan"; `from_json` reads both names.
        rgb_mask: "none", or "cloud" (background blacked out with the help of the cloud, the paper's
            protocol; inspection then needs the cloud too).
        foreground: remove the support plane and stray clusters from clouds before use.
        coreset: fraction of the training rows kept in each memory bank; None keeps all, up to `MOST_ROWS`.
        coreset_eps: distortion bound of the sparse random projection before the coreset search.
        components: principal components of the normal features that networks and banks see; None, or more than the
            extractor has channels, takes all channels.
        image_score: "reweighted" as published (the largest distance, by how usual its bank row is), or "max".
        fusion: "standardised" (weights 1/σ of held-out good samples) or "ocsvm" (as published).
        false_reject_rate: share of good parts that may be rejected; sets the threshold.
        seed: of everything random.
    """

    mode: Mode = "default"
    modality: Sensors = "rgb"
    hallucination: Hallucination = "none"
    rgb: RgbExtractor = SMALL_RGB
    xyz: XyzExtractor | SurfaceExtractor = SMALL_NORMALS
    distillation: Distillation = field(default_factory=Distillation)
    size: int = 320
    view: View = "auto"
    rgb_mask: Literal["none", "cloud"] = "none"
    foreground: bool = True
    coreset: float | None = None
    coreset_eps: float = 0.9
    components: int | None = 256
    image_score: Literal["reweighted", "max"] = "max"
    fusion: Literal["standardised", "ocsvm"] = "standardised"
    false_reject_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.coreset is None or 0 < self.coreset <= 1, "coreset", self.coreset, "a fraction in (0, 1]")
        _require(0 < self.coreset_eps < 1, "coreset_eps", self.coreset_eps, "a number in (0, 1)")
        _require(0 < self.false_reject_rate < 1, "false_reject_rate", self.false_reject_rate, "in (0, 1)")
        _require(self.components is None or self.components >= 2, "components", self.components, "at least 2")
        _require(self.size >= 32, "size", self.size, "at least 32 pixels")
        if isinstance(self.xyz, XyzExtractor):
            _check_points(self.xyz)
        _check_distillation(self.distillation)
        _require(
            not (self.modality == "both" and self.hallucination != "none"),
            "hallucination",
            self.hallucination,
            "none, since with both modalities nothing is missing",
        )
        _require(self.view in get_args(View), "view", self.view, f"one of {', '.join(get_args(View))}")
        _require(
            self.view != "top" or (self.modality != "rgb" and self.has_normals),
            "view",
            self.view,
            "sensor or part, unless a cloud is measured on the line and looked at as normals (--modality xyz or both)",
        )
        single = self.modality == "rgb" and self.hallucination == "none"
        _require(
            self.view != "part" or (self.modality != "xyz" and (single or self.has_normals)),
            "view",
            self.view,
            "sensor or top, unless an image is taken on the line and clouds, if any, are looked at as normals",
        )
        _require(
            self.view != "each" or (self.modality == "both" and self.has_normals),
            "view",
            self.view,
            "sensor, top or part, unless image and cloud are both measured and the cloud looked at as normals",
        )
        _require(
            not (self.rgb_mask == "cloud" and not self.foreground),
            "rgb_mask",
            self.rgb_mask,
            "foreground removal to make the mask from",
        )

    @property
    def mains(self) -> tuple[Modality, ...]:
        """The modalities with a bank of their own, in the published order."""
        return ("xyz", "rgb") if self.modality == "both" else (self.modality,)

    @property
    def other(self) -> Modality:
        """The modality that is hallucinated, or absent."""
        return "xyz" if self.modality == "rgb" else "rgb"

    @property
    def points(self) -> XyzExtractor | None:
        """The point extractor, or None where clouds are looked at as images."""
        return self.xyz if isinstance(self.xyz, XyzExtractor) else None

    @property
    def has_normals(self) -> bool:
        """Whether clouds are looked at as images of surface normals."""
        return isinstance(self.xyz, SurfaceExtractor) and self.xyz.image == "normals"

    def weights(self, modality: Modality) -> str:
        """Where a modality's extractor takes its weights from: "seeded", "timm" or a file."""
        if modality == "rgb":
            return self.rgb.weights
        return self.xyz.backbone.weights if isinstance(self.xyz, SurfaceExtractor) else self.xyz.weights

    def without_weights(self) -> Recipe:
        """The same recipe with random weights, for extractors that are filled from a run."""
        rgb, xyz = replace(self.rgb, weights="seeded"), self.xyz
        if isinstance(xyz, SurfaceExtractor):
            return replace(self, rgb=rgb, xyz=replace(xyz, backbone=replace(xyz.backbone, weights="seeded")))
        return replace(self, rgb=rgb, xyz=replace(xyz, weights="seeded"))

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote; raises RunError for unknown or impossible fields."""
        try:
            fields = dict(value)
            if fields.get("view") == OLD_TOP_VIEW:
                fields["view"] = "top"
            fields["rgb"] = RgbExtractor(**_tuples(fields["rgb"]))
            fields["xyz"] = _xyz_from_json(fields["xyz"])
            fields["distillation"] = Distillation(**_tuples(fields["distillation"]))
            return Recipe(**fields)
        except (KeyError, TypeError) as error:
            raise RunError(
                "recipe", found=str(error), expected="the fields of Recipe", action="train the run again"
            ) from error


def _xyz_from_json(fields: dict[str, Any]) -> XyzExtractor | SurfaceExtractor:
    if "image" in fields:
        return SurfaceExtractor(fields["image"], RgbExtractor(**_tuples(fields["backbone"])))
    return XyzExtractor(**_tuples(fields))


def _check_points(xyz: XyzExtractor) -> None:
    _require(xyz.width % xyz.heads == 0, "xyz.heads", xyz.heads, f"a divisor of the width {xyz.width}")
    _require(
        bool(xyz.taps) and max(xyz.taps) < xyz.depth,
        "xyz.taps",
        xyz.taps,
        f"block indices below the depth {xyz.depth}",
    )


def _check_distillation(options: Distillation) -> None:
    _require(0 <= options.validation < 1, "distillation.validation", options.validation, "a fraction in [0, 1)")
    _require(options.patience >= 0, "distillation.patience", options.patience, "0 or a number of epochs")


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise RunError(f"recipe {name}", found=str(found), expected=expected, action="change the option")


PUBLISHED_RECIPE = Recipe(
    mode="faithful",
    rgb=PUBLISHED_RGB,
    xyz=PUBLISHED_XYZ,
    distillation=PUBLISHED_DISTILLATION,
    size=224,
    view="sensor",
    coreset=0.1,
    components=None,
    image_score="reweighted",
    fusion="ocsvm",
)
