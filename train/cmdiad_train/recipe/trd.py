"""The recipe part of reverse distillation: Tuned Reverse Distillation and its variants for one sensor, as values."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cmdiad_runtime.support.records import is_number
from cmdiad_train.recipe.extractors import IMAGENET_MEAN, IMAGENET_STD, SMALL_RGB, RgbExtractor, rgb_from_json
from cmdiad_train.recipe.rules import require, require_inside, require_kind, require_one, require_whole, tuples

if TYPE_CHECKING:
    from cmdiad_train.recipe.recipe import Recipe

Variant = Literal["trd", "rd", "mtfi-trd", "mtfi-rd"]
Geometry = Literal["normals", "pseudo-normals", "depth"]
Distance = Literal["flat", "pixel"]

VARIANTS: tuple[Variant, ...] = ("trd", "rd", "mtfi-trd", "mtfi-rd")
GEOMETRIES: tuple[Geometry, ...] = ("normals", "pseudo-normals", "depth")
TEACHER_STAGES = (0, 1, 2)
"""Stages of a teacher: strides 4, 8 and 16."""
LARGEST_STRIDE = 32
"""Pixels per cell of the bottleneck; the size of the view must be a multiple of this."""

_MOST_STEPS = 1 << 31
_LARGEST = sys.float_info.max

SMALL_TEACHER = replace(SMALL_RGB, stages=TEACHER_STAGES, grid=None)
PUBLISHED_TEACHER = RgbExtractor("wide_resnet50_2.tv_in1k", TEACHER_STAGES, None, "timm", IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class TrdRecipe:
    """Part of a recipe: teacher, geometry and training of the students.

    Attributes:
        mode: "default" (settings recommended by cmdiad) or "faithful" (as published).
        variant: "trd" (both sensors: each student also sees the features of the other modality), "rd" (one sensor, or
            both with a separate student for each), "mtfi-trd" (one sensor, the features of the other modality are
            hallucinated) or "mtfi-rd" (an "rd" student that a model of both sensors has taught). The last two train
            with both sensors.
        teacher: Frozen network whose features the students reproduce, the same for both modalities.
        geometry: Image of the cloud: "normals" (metric surface normals), "pseudo-normals" (published: gradients of the
            depth image) or "depth" (published depth image).
        distance: Cosine distance of the losses: "flat" (of all values of a level, as published) or "pixel" (mean of
            the distances at each position).
        epochs: Passes over the training samples.
        batch: Samples per step.
        learning_rate: Rate of Adam in the first epoch.
        decay: Factor of the learning rate after each epoch.
        patience: Epochs without a smaller validation loss after which training stops and the best epoch is taken. A
            tenth of the training samples validates. 0, as published, trains on all and takes the last epoch.
        fine_tune_epochs: Epochs in which a student of "mtfi-trd" learns to work with hallucinated features.
        distil_epochs: Epochs in which the student of "mtfi-rd" learns from the model of both sensors.
        folds: Groups of training samples that are each left out once, to score every training sample with students
            that have not seen it; 0 sets the threshold from the held-out samples alone.
    """

    mode: Literal["default", "faithful"] = "default"
    variant: Variant = "rd"
    teacher: RgbExtractor = SMALL_TEACHER
    geometry: Geometry = "normals"
    distance: Distance = "flat"
    epochs: int = 60
    batch: int = 8
    learning_rate: float = 5e-3
    decay: float = 0.95
    patience: int = 10
    fine_tune_epochs: int = 15
    distil_epochs: int = 60
    folds: int = 0

    family: ClassVar[str] = "trd"

    def __post_init__(self) -> None:
        require_one("mode", self.mode, ("default", "faithful"))
        require_one("variant", self.variant, VARIANTS)
        require_one("geometry", self.geometry, GEOMETRIES)
        require_one("distance", self.distance, ("flat", "pixel"))
        require_kind("teacher", self.teacher, [RgbExtractor])
        stages = self.teacher.stages
        require(stages == TEACHER_STAGES, "teacher stages", stages, f"{TEACHER_STAGES}, so a CNN")
        for name, low in (("epochs", 1), ("batch", 1), ("patience", 0), ("fine_tune_epochs", 1), ("distil_epochs", 1)):
            require_whole(name, getattr(self, name), low, _MOST_STEPS)
        require_whole("folds", self.folds, 0, _MOST_STEPS)
        require(self.folds != 1, "folds", self.folds, "0, or at least 2")
        require_inside("learning_rate", self.learning_rate, "a positive number", high=_LARGEST)
        require(is_number(self.decay, 0, 1) and self.decay > 0, "decay", self.decay, "a number in (0, 1]")

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if this part contradicts the common fields of a recipe."""
        possible = ("rd", "trd") if recipe.modality == "both" else ("rd", "mtfi-trd", "mtfi-rd")
        expected = f"{' or '.join(possible)} with --modality {recipe.modality}"
        require(self.variant in possible, "variant", self.variant, expected)
        require(
            recipe.image_modality == "rgb" or not self.trains_with_both,
            "variant",
            self.variant,
            f"rd with --modality {recipe.image_modality}; pairs of two images need the family bank (--partner)",
        )
        require(
            recipe.view != "each" or self.variant == "rd",
            "view",
            recipe.view,
            "sensor, top or part: these students compare image and cloud place by place, so both must show the same "
            "view; --variant rd has a separate student for each",
        )
        whole = recipe.size % LARGEST_STRIDE == 0
        require(whole, "size", recipe.size, f"a multiple of {LARGEST_STRIDE} pixels, because of the students' strides")
        follows = recipe.view in ("sensor", "auto") or (recipe.view == "part" and not self.trains_with_clouds(recipe))
        require(
            follows or self.geometry == "normals",
            "view",
            recipe.view,
            f"sensor with --geometry {self.geometry}; other views need normals",
        )

    def trains_with_clouds(self, recipe: Recipe) -> bool:
        """Return True if the training reads clouds."""
        return recipe.modality != "rgb" or self.trains_with_both

    @property
    def trains_with_both(self) -> bool:
        """Return True if the training reads both modalities of each sample."""
        return self.variant != "rd"

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrdRecipe:
        """Return the part that `to_json` wrote; raises RecordError for unknown, missing or impossible fields."""
        fields = tuples(cls, value)
        teacher = {"teacher": rgb_from_json(fields["teacher"])} if "teacher" in fields else {}
        return cls(**{**fields, **teacher})


def trd_part(recipe: Recipe) -> TrdRecipe:
    """Return the reverse distillation part of a recipe; TypeError for a recipe of another family."""
    if not isinstance(recipe.detector, TrdRecipe):
        raise TypeError(f"a recipe of the family {recipe.family}, not of reverse distillation")
    return recipe.detector


PUBLISHED_TRD = TrdRecipe(
    mode="faithful",
    variant="trd",
    teacher=PUBLISHED_TEACHER,
    geometry="pseudo-normals",
    epochs=200,
    batch=16,
    patience=0,
)
