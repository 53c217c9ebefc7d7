"""The recipe part of AST: the asymmetric student-teacher, as values."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cmdiad_train.recipe.extractors import IMAGENET_MEAN, IMAGENET_STD, SMALL_RGB, RgbExtractor, rgb_from_json
from cmdiad_train.recipe.rules import require, require_inside, require_kind, require_one, require_whole, tuples

if TYPE_CHECKING:
    from cmdiad_train.recipe.recipe import Recipe

CELLS = (8, 16, 32)
"""Sides of a grid cell in pixels of the view: 1, 2 or 4 times the 8 pixels that a cell has in the image of a cloud."""
PUBLISHED_CELL = 32

_MOST_STEPS = 1 << 31
_MOST_WIDTH = 1 << 14
_LARGEST = sys.float_info.max

SMALL_FEATURES = replace(SMALL_RGB, grid=None)
PUBLISHED_FEATURES = RgbExtractor("tf_efficientnet_b5.in1k", (3,), None, "timm", IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class AstRecipe:
    """Part of a recipe: features, geometry, size of the student and training.

    Attributes:
        mode: "default" (settings recommended by cmdiad) or "faithful" (as published).
        extractor: Frozen network for images, whose features both networks see. Its grid follows from `cell`.
        geometry: Image of the cloud: "normals" (metric surface normals) or "depth" (published: centimetres about the
            part's mean).
        cell: Side of a grid cell in pixels of the view; 32 as published.
        student_width: Channels of the student's convolutions; 1024 as published.
        student_units: Residual units of the student.
        reduction: Image score: "mean" of the cells' distances, or "max" of the map.
        epochs: Passes over the training samples, for each of both networks.
        batch: Samples per step.
        learning_rate: Rate of Adam.
        patience: Epochs without a smaller validation loss after which the training of a network stops and its best
            epoch is taken. A tenth of the training samples validates. 0, as published, trains on all and takes the
            last epoch.
    """

    mode: Literal["default", "faithful"] = "default"
    extractor: RgbExtractor = SMALL_FEATURES
    geometry: Literal["normals", "depth"] = "normals"
    cell: int = 16
    student_width: int = 256
    student_units: int = 4
    reduction: Literal["mean", "max"] = "mean"
    epochs: int = 60
    batch: int = 8
    learning_rate: float = 1e-3
    patience: int = 10

    family: ClassVar[str] = "ast"

    def __post_init__(self) -> None:
        require_one("mode", self.mode, ("default", "faithful"))
        require_one("geometry", self.geometry, ("normals", "depth"))
        require_one("reduction", self.reduction, ("mean", "max"))
        require_kind("extractor", self.extractor, [RgbExtractor])
        require(isinstance(self.cell, int) and self.cell in CELLS, "cell", self.cell, f"one of {CELLS}")
        require_whole("student_width", self.student_width, 1, _MOST_WIDTH)
        for name, low in (("student_units", 1), ("epochs", 1), ("batch", 1), ("patience", 0)):
            require_whole(name, getattr(self, name), low, _MOST_STEPS)
        require_inside("learning_rate", self.learning_rate, "a positive number", high=_LARGEST)

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if this part contradicts the common fields of a recipe."""
        whole = recipe.size % self.cell == 0
        require(whole, "size", recipe.size, f"a multiple of {self.cell} pixels, the side of a cell (--cell)")
        require(
            recipe.view != "each",
            "view",
            recipe.view,
            "sensor, top or part: image and cloud share the cells, so both must show the same view",
        )
        if recipe.modality == "rgb" or self.geometry == "normals":
            return
        require(
            recipe.view in ("sensor", "auto"),
            "view",
            recipe.view,
            "sensor with --geometry depth; other views need normals",
        )
        require(
            self.cell == PUBLISHED_CELL,
            "cell",
            self.cell,
            f"{PUBLISHED_CELL} with --geometry depth, whose image has a quarter of the view's pixels per side",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> AstRecipe:
        """Return the part that `to_json` wrote; raises RecordError for unknown, missing or impossible fields."""
        fields = tuples(cls, value)
        extractor = {"extractor": rgb_from_json(fields["extractor"])} if "extractor" in fields else {}
        return cls(**{**fields, **extractor})


def ast_part(recipe: Recipe) -> AstRecipe:
    """Return the AST part of a recipe; TypeError for a recipe of another family."""
    if not isinstance(recipe.detector, AstRecipe):
        raise TypeError(f"a recipe of the family {recipe.family}, not of AST")
    return recipe.detector


PUBLISHED_AST = replace(
    AstRecipe(),
    mode="faithful",
    extractor=PUBLISHED_FEATURES,
    geometry="depth",
    cell=PUBLISHED_CELL,
    student_width=1024,
    epochs=72,
    learning_rate=2e-4,
    patience=0,
)
