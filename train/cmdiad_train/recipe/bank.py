"""The recipe part of the memory bank family: every published variant, and the default of cmdiad, as values."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from cmdiad_runtime.modalities import IMAGE_MODALITIES
from cmdiad_runtime.names import Modality
from cmdiad_runtime.support.records import is_number
from cmdiad_train.recipe.extractors import (
    PUBLISHED_RGB,
    PUBLISHED_XYZ,
    SMALL_NORMALS,
    SMALL_RGB,
    RgbExtractor,
    SurfaceExtractor,
    XyzExtractor,
    rgb_from_json,
    xyz_from_json,
)
from cmdiad_train.recipe.rules import (
    require,
    require_inside,
    require_kind,
    require_one,
    require_text,
    require_whole,
    tuples,
)

if TYPE_CHECKING:
    from cmdiad_train.recipe.recipe import Recipe

Mode = Literal["default", "faithful"]
Hallucination = Literal["none", "f2f", "f2i", "i2f"]
Loss = Literal["l2", "cosine", "smooth_l1"]
ImageScore = Literal["reweighted", "max", "patchcore", "thousandth"]
Distances = Literal["plain", "relative", "auto"]
Series = Literal["keep", "leave-out"]
MainBank = Literal["plain", "enhanced"]
ResidualMap = Literal["none", "cycle"]
Uncertainty = Literal["none", "bank"]
Targets = Literal["joined", "stages"]
Coordinates = Literal["none", "cell"]
Source = Modality | Literal["partner"]
"""Input of an extractor: the image or cloud of inspection, or the training image of a second sensor (`partner`)."""
PARTNER: Literal["partner"] = "partner"

_MOST_COMPONENTS = 1 << 20  # far above the channels of any extractor
_MOST_STEPS = 1 << 31
_MOST_WEIGHT = 100
_LARGEST = sys.float_info.max

_LATER: dict[str, object] = {
    "paper": None,
    "distances": "plain",
    "series": "keep",
    "main_bank": "plain",
    "residual_map": "none",
    "uncertainty": "none",
    "partner": None,
    "registered": False,
}
"""Fields that JSON leaves out at these values, so that earlier versions can read the recipe."""
_LATER_DISTILLATION: dict[str, object] = {"context": 1, "alignment": 0.0, "targets": "joined", "coordinates": "none"}
"""Fields of `Distillation` that JSON leaves out at these values, so that earlier versions can read the recipe."""


def _without_later(values: dict[str, Any], later: dict[str, object]) -> dict[str, Any]:
    """Return the values without those of later fields that equal the value of earlier versions."""
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def _distillation_from_json(value: dict[str, Any]) -> Distillation:
    return Distillation(**tuples(Distillation, value))


@dataclass(frozen=True)
class Distillation:
    """Training of the distillation network (method §9).

    Attributes:
        epochs: Number of passes over the training tokens.
        batch: Samples per step.
        learning_rate: Rate of Adam after the warm-up.
        warmup: Epochs of linear warm-up. The default mode then decays the rate by half a cosine.
        expansion: Hidden width of F2F as a multiple of the input width.
        output: Last activation of F2F: "linear", or "gelu" as published (which cannot go below -0.17).
        loss: Loss per row: "l2" (Euclidean distance), "cosine" or "smooth_l1".
        validation: Share of the training samples that choose the best epoch and are not trained on; 0, as
            published, takes the last epoch.
        patience: Epochs without a better validation loss after which training stops; 0 never stops.
        categories: Further categories of the data set whose good samples also train the network (the published
            networks are joint over all classes).
        context: Side of the square of cells that F2F sees around each cell: 1 (the cell alone, as published), 3 or 5.
        alignment: Weight of a contrastive loss between hallucinated features and targets, next to the distance of a row
            from its target as a multiple of that of targets from their mean; 0 for none. Needs the loss "l2".
        targets: Features that F2F predicts: "joined" (principal components of all stages of the other extractor
            together) or "stages" (those of each stage alone, with the same weight for each stage and a loss of each).
        coordinates: "none", or "cell" (F2F also sees where the cell is in the view).
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
    context: int = 1
    alignment: float = 0.0
    targets: Targets = "joined"
    coordinates: Coordinates = "none"

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch", 1), ("warmup", 0), ("patience", 0)):
            require_whole(f"distillation.{name}", getattr(self, name), low, _MOST_STEPS)
        for name in ("learning_rate", "expansion"):
            require_inside(f"distillation.{name}", getattr(self, name), "a positive number", high=_LARGEST)
        require_one("distillation.output", self.output, ("linear", "gelu"))
        require_one("distillation.loss", self.loss, ("l2", "cosine", "smooth_l1"))
        require_whole("distillation.context", self.context, 1, 5)
        require(self.context % 2 == 1, "distillation.context", self.context, "1, 3 or 5")
        weight = is_number(self.alignment, 0, _MOST_WEIGHT)
        require(weight, "distillation.alignment", self.alignment, f"a number from 0 to {_MOST_WEIGHT}")
        fits = self.alignment == 0 or self.loss == "l2"
        require(fits, "distillation.alignment", self.alignment, "0, unless the loss is l2")
        require_one("distillation.targets", self.targets, get_args(Targets))
        require_one("distillation.coordinates", self.coordinates, get_args(Coordinates))
        below_one = is_number(self.validation, 0, 1) and self.validation < 1
        require(below_one, "distillation.validation", self.validation, "a fraction in [0, 1)")
        require_kind("distillation.categories", self.categories, [tuple])
        for category in self.categories:
            require_text("distillation.categories", category, "names of categories")


PUBLISHED_DISTILLATION = Distillation(100, 32, 5e-4, 10, 2.5, "gelu", "l2", 0.0, 0)
PUBLISHED_I2F_RATE = {"xyz": 3e-4, "rgb": 2e-4, "both": 3e-4}
"""Learning rates of I2F by main modality (method §9). With both modalities there is no such network."""
MOST_ROWS = 25_000
"""Largest bank that is kept whole. A larger one is reduced to a coreset of this size."""


@dataclass(frozen=True)
class BankRecipe:
    """Part of a recipe: extractors, hallucination, memory bank and fusion.

    Attributes:
        mode: "default" (statistics per bank, float blur, deterministic) or "faithful" (as published).
        hallucination: Replacement of the missing modality: "none", "f2f" (feature to feature), "f2i" (feature to
            input, then the extractor of the other modality) or "i2f" (input to feature).
        rgb: Extractor of images.
        xyz: Extractor of clouds, seen as points or as an image of the surface.
        distillation: Training of the distillation network.
        coreset: Fraction of the training rows kept in each memory bank; None keeps all, up to `MOST_ROWS`.
        coreset_eps: Distortion bound of the sparse random projection before the coreset search.
        components: Number of principal components of the normal features that networks and banks use; None, or more
            than the extractor has channels, takes all channels.
        image_score: "reweighted" as published (the largest distance, weighted by how usual its bank row is), "max"
            (unweighted), "patchcore" (weighted as in the paper of PatchCore) or "thousandth" (as in the published
            two-bank form of M3DM, which divides distances by 1000 before the published weight).
        fusion: "standardised" (weights 1/σ of held-out good samples) or "ocsvm" (as published).
        paper: Row of the paper's tables that the whole recipe reproduces (`--paper`), or None.
        distances: Distances that the map shows: "plain" as published, "relative" to the usual distance of good parts
            at the same place of the view, or "auto", see `has_relative_distances`.
        series: "leave-out" (good samples are scored against banks without the series that they were recorded in) or
            "keep".
        main_bank: "plain" (a bank of main features and a bank of hallucinated ones) or "enhanced" (one bank of both,
            each feature of the main modality followed by its hallucination).
        residual_map: "none", or "cycle" (a further map: how far the main features are from those that a second network
            predicts back from the hallucinated ones).
        uncertainty: "none", or "bank" (distances to a row of the hallucinated bank are multiplied by 0.5 to 1, less
            where the network is uncertain about the row). Needs plain banks and the image score "max".
        partner: Name of a second image (`cmdiad_runtime.modalities`) whose features F2F learns to predict, or None to
            pair image and cloud. Only training reads these images.
        registered: True if a place of the part lies at the same place of both images. The view of the part then cuts
            the second image out with the pose of the part in the first one.
    """

    mode: Mode = "default"
    hallucination: Hallucination = "none"
    rgb: RgbExtractor = SMALL_RGB
    xyz: XyzExtractor | SurfaceExtractor = SMALL_NORMALS
    distillation: Distillation = field(default_factory=Distillation)
    coreset: float | None = None
    coreset_eps: float = 0.9
    components: int | None = 256
    image_score: ImageScore = "max"
    fusion: Literal["standardised", "ocsvm"] = "standardised"
    paper: str | None = None
    distances: Distances = "plain"
    series: Series = "keep"
    main_bank: MainBank = "plain"
    residual_map: ResidualMap = "none"
    uncertainty: Uncertainty = "none"
    partner: str | None = None
    registered: bool = False

    family: ClassVar[str] = "bank"

    def __post_init__(self) -> None:
        require_one("mode", self.mode, ("default", "faithful"))
        require_one("hallucination", self.hallucination, ("none", "f2f", "f2i", "i2f"))
        require_one("image_score", self.image_score, get_args(ImageScore))
        require_one("fusion", self.fusion, ("standardised", "ocsvm"))
        require_kind("rgb", self.rgb, [RgbExtractor])
        require_kind("xyz", self.xyz, [XyzExtractor, SurfaceExtractor])
        require_kind("distillation", self.distillation, [Distillation])
        require_one("distances", self.distances, get_args(Distances))
        require_one("series", self.series, get_args(Series))
        require_one("main_bank", self.main_bank, get_args(MainBank))
        require_one("residual_map", self.residual_map, get_args(ResidualMap))
        require_one("uncertainty", self.uncertainty, get_args(Uncertainty))
        require(isinstance(self.registered, bool), "registered", self.registered, "true or false")
        require(
            self.distances == "plain" or self.mode == "default",
            "distances",
            self.distances,
            "plain in the mode faithful, as published",
        )
        fraction = self.coreset is None or (is_number(self.coreset, 0, 1) and self.coreset > 0)
        require(fraction, "coreset", self.coreset, "a fraction in (0, 1]")
        require_inside("coreset_eps", self.coreset_eps, "a number in (0, 1)")
        if self.paper is not None:
            require_text("paper", self.paper, "a row of the paper's tables")
            require(self.mode == "faithful", "mode", self.mode, "faithful, because the recipe has a row of the paper")
        if self.components is not None:
            require_whole("components", self.components, 2, _MOST_COMPONENTS)

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if this part contradicts the common fields of a recipe."""
        require(
            not (recipe.modality == "both" and self.hallucination != "none"),
            "hallucination",
            self.hallucination,
            "none, since with both modalities nothing is missing",
        )
        require(
            recipe.image_modality == "rgb" or self.hallucination == "none" or self.partner is not None,
            "hallucination",
            self.hallucination,
            f"none with --modality {recipe.image_modality}, or f2f with --partner, the name of another image",
        )
        require(
            not self.registered or self.partner is not None,
            "registered",
            self.registered,
            "false without --partner, the name of a second image",
        )
        if self.partner is not None:
            self._check_partner(self.partner, recipe)
        self._check_hallucination(recipe)
        require(
            self.paper is None or recipe.mask is None,
            "mask",
            recipe.mask,
            "none, because the recipe has a row of the paper (--paper)",
        )
        require(
            recipe.view != "top" or self.has_normals,
            "view",
            recipe.view,
            "sensor or part, unless clouds are seen as normals",
        )
        single = recipe.modality == "rgb" and (self.hallucination == "none" or self.partner is not None)
        require(
            recipe.view != "part" or single or self.has_normals,
            "view",
            recipe.view,
            "sensor, unless clouds are seen as normals",
        )
        require(
            recipe.view != "each" or self.has_normals,
            "view",
            recipe.view,
            "sensor, top or part, unless clouds are seen as normals",
        )

    def _check_partner(self, partner: str, recipe: Recipe) -> None:
        """Raise RunError unless a recipe can be trained on pairs of two images."""
        require(
            partner != "xyz", "partner", partner, "an image; --hallucination f2f without --partner pairs it with clouds"
        )
        require_one("partner", partner, IMAGE_MODALITIES)
        for holds, expected in (
            (
                recipe.modality == "rgb",
                f"none with --modality {recipe.modality}, because images are paired with images",
            ),
            (partner != recipe.image_modality, f"another image than {recipe.image_modality}, which is inspected"),
            (
                self.hallucination == "f2f" and self.mode == "default",
                "none, or --hallucination f2f in the mode default",
            ),
            (not self.distillation.categories, "none with --distil-on, because pairs are of one category"),
            (recipe.parts == 1, "none with --parts, because parts of two images are not assigned to each other"),
            (recipe.rgb_mask == "none", "none with --rgb-mask cloud, because no cloud masks the second image"),
        ):
            require(holds, "partner", partner, expected)

    def _check_hallucination(self, recipe: Recipe) -> None:
        distillation = self.distillation
        may_differ = self.hallucination == "f2f" and self.mode == "default"
        for name, value, usual in (
            ("distillation.context", distillation.context, 1),
            ("distillation.alignment", distillation.alignment, 0),
            ("distillation.targets", distillation.targets, "joined"),
            ("distillation.coordinates", distillation.coordinates, "none"),
            ("main_bank", self.main_bank, "plain"),
            ("residual_map", self.residual_map, "none"),
            ("uncertainty", self.uncertainty, "none"),
        ):
            expected = f"{usual}, except for the hallucination f2f in the mode default"
            require(value == usual or may_differ, name, value, expected)
        require(
            self.uncertainty == "none" or (self.main_bank == "plain" and self.image_score == "max"),
            "uncertainty",
            self.uncertainty,
            "none, unless the main bank is plain and the image score max",
        )
        for name, value, usual in (
            ("context", distillation.context, 1),
            ("coordinates", distillation.coordinates, "none"),
        ):
            require(
                value == usual or recipe.modality != "xyz" or self.points is None,
                f"distillation.{name}",
                value,
                f"{usual}, unless clouds are seen as an image of normals or depth",
            )
        require(
            distillation.targets == "joined" or len(self._stages_of(self.target(recipe))) > 1,
            "distillation.targets",
            distillation.targets,
            "joined, unless the hallucinated modality is seen by a CNN with several stages or a ViT with several "
            "layers",
        )

    def target(self, recipe: Recipe) -> Source:
        """Return what the hallucinated features are of."""
        return recipe.other if self.partner is None else PARTNER

    def _stages_of(self, source: Source) -> tuple[int, ...]:
        """Return the stages or layers of an extractor; empty for the last block of a ViT and for points."""
        if source != "xyz":
            return self.rgb.stages or self.rgb.layers
        surface = self.xyz.backbone if isinstance(self.xyz, SurfaceExtractor) else None
        return () if surface is None else surface.stages or surface.layers

    @property
    def points(self) -> XyzExtractor | None:
        """Return the point extractor, or None if clouds are seen as images."""
        return self.xyz if isinstance(self.xyz, XyzExtractor) else None

    @property
    def has_normals(self) -> bool:
        """Return True if clouds are seen as images of surface normals."""
        return isinstance(self.xyz, SurfaceExtractor) and self.xyz.image == "normals"

    def weights(self, source: Source) -> str:
        """Return the origin of the weights of an extractor: "seeded", "timm" or a file."""
        if source != "xyz":
            return self.rgb.weights
        return self.xyz.backbone.weights if isinstance(self.xyz, SurfaceExtractor) else self.xyz.weights

    def without_weights(self) -> BankRecipe:
        """Return the same part with random weights, for extractors whose weights come from a run."""
        rgb, xyz = replace(self.rgb, weights="seeded"), self.xyz
        if isinstance(xyz, SurfaceExtractor):
            return replace(self, rgb=rgb, xyz=replace(xyz, backbone=replace(xyz.backbone, weights="seeded")))
        return replace(self, rgb=rgb, xyz=replace(xyz, weights="seeded"))

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON-ready values, without later fields at the values of earlier versions of cmdiad."""
        values = asdict(self)
        values["distillation"] = _without_later(values["distillation"], _LATER_DISTILLATION)
        return _without_later(values, _LATER)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BankRecipe:
        """Return the part that `to_json` wrote; raises RecordError for unknown, missing or impossible fields."""
        fields = tuples(cls, value)
        readers = {"rgb": rgb_from_json, "xyz": xyz_from_json, "distillation": _distillation_from_json}
        read = {name: reader(fields[name]) for name, reader in readers.items() if name in fields}
        return cls(**{**fields, **read})


def bank_part(recipe: Recipe) -> BankRecipe:
    """Return the bank part of a recipe; TypeError for a recipe of another family."""
    if not isinstance(recipe.detector, BankRecipe):
        raise TypeError(f"a recipe of the family {recipe.family}, not of memory banks")
    return recipe.detector


def has_relative_distances(recipe: Recipe) -> bool:
    """Return True if the map of a bank recipe with a decided view shows relative distances.

    "auto" means relative distances in a view that follows the part. In the view of the sensor a place of the view is no
    place of the part, unless parts lie in a fixture.
    """
    distances = bank_part(recipe).distances
    return distances == "relative" or (distances == "auto" and recipe.view != "sensor")


PUBLISHED_BANK = BankRecipe(
    mode="faithful",
    rgb=PUBLISHED_RGB,
    xyz=PUBLISHED_XYZ,
    distillation=PUBLISHED_DISTILLATION,
    coreset=0.1,
    components=None,
    image_score="reweighted",
    fusion="ocsvm",
)
